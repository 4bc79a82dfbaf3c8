//! The keys of one person, one after the other. The first one's public half is who they are, for good; when a machine is lost that had them all, another takes the place
//! of the last, which that machine does not have.

use crate::{
    BoxKey, PublicKey, Purpose, Recipient, RecipientKey, SigningKey,
    derive::{link_key, private_space_key, recipient_key},
    recipient::UnwrapError,
};
use potluck_types::UserId;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use zeroize::Zeroizing;

/// All keys that a person has had. The last one is in use; those before still open what was sealed for them.
#[derive(Clone, Debug)]
pub struct UserKeys {
    first: SigningKey,
    later: Vec<SigningKey>,
}

impl UserKeys {
    /// Those of a person who has had one key so far.
    pub const fn new(first: SigningKey) -> Self {
        Self {
            first,
            later: Vec::new(),
        }
    }

    /// From all keys of a person, the first one first; none if there are none.
    pub fn of(keys: impl IntoIterator<Item = SigningKey>) -> Option<Self> {
        let mut keys = keys.into_iter();
        Some(Self {
            first: keys.next()?,
            later: keys.collect(),
        })
    }

    /// Who the person is.
    pub fn id(&self) -> UserId {
        self.first.user_id()
    }

    /// Whether the person has had another key than the first.
    pub fn is_replaced(&self) -> bool {
        !self.later.is_empty()
    }

    /// The key in use: what the person says now is signed with it.
    pub fn signing(&self) -> &SigningKey {
        self.later.last().unwrap_or(&self.first)
    }

    /// All of them, the first one first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &SigningKey> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// Whether this is one of them.
    pub fn contains(&self, key: PublicKey) -> bool {
        self.all().any(|known| known.public() == key)
    }

    /// Another key takes the place of the last.
    pub fn push(&mut self, key: SigningKey) {
        self.later.push(key);
    }

    /// A key that was used beside the one in use: it opens what was wrapped for it.
    pub fn add(&mut self, key: SigningKey) {
        let last = self.later.len().saturating_sub(1);
        self.later.insert(last, key);
    }

    /// The first key of the person's private space.
    pub fn private_space_key(&self) -> BoxKey {
        private_space_key(&self.first)
    }

    /// Whom others wrap messages for, to reach the person.
    pub fn recipient(&self) -> Recipient {
        recipient_key(self.signing()).recipient()
    }

    /// Whom others wrap messages for, or wrapped: for the first key first.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient> {
        self.all().map(|key| recipient_key(key).recipient())
    }

    /// What opens all messages that were wrapped for the person.
    pub fn opening(&self) -> RecipientKeys {
        RecipientKeys(self.all().rev().map(recipient_key).collect())
    }

    /// What the keys of the person's links are sealed under, or were: the one in use first.
    pub fn link_keys(&self) -> impl Iterator<Item = BoxKey> {
        self.all().rev().map(link_key)
    }
}

/// What opens the messages that were wrapped for one person, under whichever of their keys.
#[derive(Debug)]
pub struct RecipientKeys(Vec<RecipientKey>);

impl RecipientKeys {
    /// Opens a wrapped message.
    pub fn unwrap(&self, purpose: Purpose<'_>, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        let mut opened = self.0.iter().map(|key| key.unwrap(purpose, wrapped));
        opened.find(Result::is_ok).unwrap_or(Err(UnwrapError))
    }
}

/// Who speaks with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speaker {
    /// The person.
    pub user: UserId,
    /// How many keys of theirs came before this one.
    pub generation: u32,
}

/// Who speaks with which key, where it is not the person whose first it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Speakers(Arc<BTreeMap<PublicKey, Speaker>>);

impl Speakers {
    /// Those who speak with later keys than their first.
    pub fn of(later: impl IntoIterator<Item = (PublicKey, Speaker)>) -> Self {
        Self(Arc::new(later.into_iter().collect()))
    }

    /// The people who speak with others than their first.
    pub fn users(&self) -> impl Iterator<Item = UserId> {
        let users: BTreeSet<UserId> = self.0.values().map(|speaker| speaker.user).collect();
        users.into_iter()
    }

    /// Which of a person's keys is in use: 0 for the first.
    pub fn generation(&self, user: UserId) -> u32 {
        let theirs = self.0.values().filter(|speaker| speaker.user == user);
        theirs.map(|speaker| speaker.generation).max().unwrap_or(0)
    }

    /// Who speaks with this key.
    pub fn whose(&self, key: PublicKey) -> Speaker {
        self.0.get(&key).copied().unwrap_or(Speaker {
            user: key.user_id(),
            generation: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Counter;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_person_stays_who_they_are_and_opens_what_was_wrapped_for_them_before() {
        let mut keys = UserKeys::new(key(1));
        let purpose = Purpose {
            context: "potluck/test/1",
            associated: b"here",
        };
        let wrap = |keys: &UserKeys| keys.recipient().wrap(purpose, b"potluck", &Counter::new()).unwrap();
        let (before, private) = (wrap(&keys), keys.private_space_key());
        let lost = keys.clone();
        keys.push(key(2));
        let after = wrap(&keys);
        assert_eq!((keys.id(), keys.is_replaced()), (key(1).user_id(), true));
        assert_eq!(keys.signing().user_id(), key(2).user_id());
        assert!(keys.private_space_key() == private);
        for wrapped in [&before, &after] {
            assert!(keys.opening().unwrap(purpose, wrapped).is_ok());
        }
        assert!(lost.opening().unwrap(purpose, &after).is_err());
        keys.add(key(3));
        let ids: Vec<_> = UserKeys::of(keys.all().cloned())
            .unwrap()
            .all()
            .map(SigningKey::user_id)
            .collect();
        assert_eq!(ids, [1, 3, 2].map(|seed| key(seed).user_id()));
    }

    #[test]
    fn a_first_key_speaks_for_itself_and_a_later_one_for_whose_it_is() {
        let later = Speaker {
            user: key(1).user_id(),
            generation: 1,
        };
        let speakers = Speakers::of([(key(2).public(), later)]);
        assert_eq!(speakers.whose(key(2).public()), later);
        assert_eq!(speakers.whose(key(3).public()).user, key(3).user_id());
    }
}
