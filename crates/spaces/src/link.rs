//! What links show, as it is published in the logs of their space: sealed, under an id that only who has the link can tell. So whoever keeps the log serves it, and
//! knows neither what it is nor who asks for what.

use crate::{Entry, Kv, KvError, Table};
use potluck_crypto::LinkId;
use potluck_types::{NodeId, SpaceId, Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// What a link shows from now on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publication {
    /// Which link.
    pub link: LinkId,
    /// For who has the link; none when it shows nothing any more.
    pub shown: Option<ByteBuf>,
    /// For who reads the space: what the link leads to. Sealed as the entry's changes are.
    pub about: ByteBuf,
    /// For who made the link: its key.
    pub key: ByteBuf,
    /// When it ends; none when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The machine that counts its readers, and gives each a share of the key; none when nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_by: Option<NodeId>,
}

impl Publication {
    /// The end of a link.
    pub fn end_of(link: LinkId) -> Self {
        Self {
            link,
            shown: None,
            about: ByteBuf::new(),
            key: ByteBuf::new(),
            until: None,
            counted_by: None,
        }
    }
}

/// What was published last of a link, and by which entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The entry's clock.
    pub clock: Timestamp,
    /// Whose log it is in.
    pub device: NodeId,
    /// The key that it is sealed under, see [`Entry::epoch`].
    pub epoch: Option<crate::EpochId>,
    /// What it says.
    pub publication: Publication,
}

impl Published {
    /// Which of several counts, the greatest: the end of a link is for good, also for a machine that has not heard of it and goes on saying what it shows.
    pub fn rank(&self) -> (bool, Timestamp, NodeId) {
        (self.publication.shown.is_none(), self.clock, self.device)
    }
}

/// The links into one space.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    space: SpaceId,
}

impl Links {
    /// Those into this space.
    pub fn of(space: SpaceId) -> Self {
        Self { space }
    }

    /// Takes what an entry publishes, in whatever order entries come; see [`Published::rank`].
    pub(crate) fn apply(self, kv: &mut impl Kv, entry: &Entry, device: NodeId) -> Result<(), KvError> {
        for publication in &entry.links {
            let published = Published {
                clock: entry.clock,
                device,
                epoch: entry.epoch,
                publication: publication.clone(),
            };
            let known = self.get(kv, publication.link)?;
            if known.is_some_and(|known| known.rank() > published.rank()) {
                continue;
            }
            kv.put(Table::Links, &self.key(publication.link), &to_canonical(&published))?;
        }
        Ok(())
    }

    /// What was published last of a link.
    pub fn get(self, kv: &impl Kv, link: LinkId) -> Result<Option<Published>, KvError> {
        let row = kv.get(Table::Links, &self.key(link))?;
        row.map(|row| Ok(from_canonical(&row)?)).transpose()
    }

    /// Links in the order of their ids, after one, up to a number; with those that show nothing any more.
    pub fn list(self, kv: &impl Kv, after: Option<LinkId>, limit: usize) -> Result<Vec<Published>, KvError> {
        let after = after.map(|link| self.key(link));
        let rows = kv.scan(Table::Links, self.space.as_bytes(), after.as_deref(), limit)?;
        rows.into_iter().map(|(_, row)| Ok(from_canonical(&row)?)).collect()
    }

    fn key(self, link: LinkId) -> Vec<u8> {
        [&self.space.as_bytes()[..], link.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Appended, Body, Keys, Log, MemoryKv, Tree, make_anew};
    use potluck_crypto::{BoxKey, SigningKey};
    use potluck_types::SystemEntropy;

    fn publication(link: u8, shown: Option<&[u8]>) -> Publication {
        Publication {
            shown: shown.map(ByteBuf::from),
            ..Publication::end_of(LinkId::from_bytes([link; 16]))
        }
    }

    #[test]
    fn what_was_said_last_holds_and_an_end_is_for_good_in_whatever_order_they_come() {
        let (space, key) = (SpaceId::from_bytes([1; 32]), BoxKey::from_bytes([2; 32]));
        let (log, tree, links) = (Log::of(space), Tree::of(space), Links::of(space));
        let body = |links| Body {
            sealed: tree.seal(&key, &[], &SystemEntropy),
            links,
            ..Body::default()
        };
        // Devices that know nothing of each other; the first ends a link that the others go on with.
        let said = [(3, 10, "old"), (4, 20, "new"), (5, 20, "other")].map(|(seed, at, shown)| {
            let ended = Some(shown.as_bytes()).filter(|_| seed > 3);
            let bodies = body(vec![publication(7, Some(shown.as_bytes())), publication(8, ended)]);
            let device = SigningKey::from_seed(&[seed; 32]);
            log.next_entry(&MemoryKv::default(), &device, Timestamp::from_millis(at), bodies)
                .unwrap()
        });
        let mut all = Vec::new();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut kv = MemoryKv::default();
            for at in order {
                let Appended { entry, device, .. } = log.append(&mut kv, &said[at]).unwrap();
                tree.apply(&mut kv, &Keys::private(key.clone()), device, &entry)
                    .unwrap();
            }
            assert_eq!(links.list(&kv, None, 9).unwrap().len(), 2);
            let before = kv.clone();
            make_anew(space, &mut kv, &Keys::private(key.clone()), tree).unwrap();
            assert_eq!(kv, before);
            all.push(kv);
        }
        assert!(all[0] == all[1] && all[1] == all[2]);
        let last = links.get(&all[0], LinkId::from_bytes([7; 16])).unwrap().unwrap();
        let by: Vec<_> = [4, 5].map(|seed| SigningKey::from_seed(&[seed; 32]).node_id()).into();
        assert_eq!(Some(&last.device), by.iter().max());
        let ended = links.get(&all[0], LinkId::from_bytes([8; 16])).unwrap().unwrap();
        assert_eq!(ended.publication.shown, None);
        assert_eq!(links.get(&all[0], LinkId::from_bytes([9; 16])).unwrap(), None);
    }
}
