//! What the pool has promised: each file as it was acknowledged, and what may be besides because its outcome is unknown.

use potluck_types::Dice;
use std::collections::BTreeMap;

/// The content of a file, made from a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) len: usize,
}

impl Content {
    /// Bytes that do not repeat and cannot be compressed.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut dice = Dice(self.seed);
        let mut bytes = Vec::with_capacity(self.len + 8);
        while bytes.len() < self.len {
            bytes.extend_from_slice(&dice.roll(u64::MAX).to_le_bytes());
        }
        bytes.truncate(self.len);
        bytes
    }
}

/// How many losses something survives, as was said when it was acknowledged, and which domains were lost since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Safety {
    survives: u8,
    lost: Vec<usize>,
}

impl Safety {
    /// It was acknowledged just now.
    pub(crate) fn of(survives: u8) -> Self {
        Self {
            survives,
            lost: Vec::new(),
        }
    }

    /// A domain was lost, for now or for ever.
    pub(crate) fn lose(&mut self, domain: usize) {
        if !self.lost.contains(&domain) {
            self.lost.push(domain);
        }
    }

    /// What needs both this and that.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.survives = both.survives.min(other.survives);
        other.lost.iter().for_each(|domain| both.lose(*domain));
        both
    }

    /// Whether it must be there now.
    pub(crate) fn is_due(&self) -> bool {
        self.lost.len() <= usize::from(self.survives)
    }
}

/// A file of one person.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise {
    /// What was acknowledged last: content, or none after a removal.
    sure: Option<Content>,
    /// What may be instead, since an operation ended without an answer.
    maybe: Vec<Option<Content>>,
    /// All that it ever was: what one who has not heard the news may show.
    ever: Vec<Content>,
    safety: Safety,
}

/// What a read gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Bytes(Vec<u8>),
    /// There is no such file.
    Absent,
    /// The reader was told why it cannot be read.
    Refused(String),
}

impl Promise {
    /// It was acknowledged, as surviving so many losses.
    pub(crate) fn acknowledge(&mut self, content: Option<Content>, survives: u8) {
        self.sure = content;
        self.maybe.clear();
        self.ever.extend(content);
        self.safety = Safety::of(survives);
    }

    /// One that a snapshot has: whoever reads it there sees this and nothing else.
    pub(crate) fn noted(&self, snapshot: &Safety) -> Option<Self> {
        let content = self.sure.filter(|_| self.maybe.is_empty() && self.is_due())?;
        Some(Self {
            sure: Some(content),
            maybe: Vec::new(),
            ever: self.ever.clone(),
            safety: self.safety.and(snapshot),
        })
    }

    /// What is noted is being brought back, or if nothing is, something that it once was.
    pub(crate) fn attempt_to_bring_back(&mut self, noted: Option<&Self>) {
        match noted {
            Some(noted) => self.attempt(noted.sure),
            None => self.maybe.extend(self.ever.iter().copied().map(Some)),
        }
    }

    /// What is noted was brought back.
    pub(crate) fn brought_back(&mut self, noted: &Self) {
        self.acknowledge(noted.sure, 0);
        self.safety = noted.safety.clone();
    }

    /// It was tried, and nobody knows how it ended.
    pub(crate) fn attempt(&mut self, content: Option<Content>) {
        self.maybe.push(content);
        self.ever.extend(content);
    }

    /// What was tried has certainly changed nothing.
    pub(crate) fn withdraw(&mut self, content: Option<Content>) {
        if let Some(at) = self.maybe.iter().rposition(|tried| *tried == content) {
            self.maybe.remove(at);
        }
    }

    /// Somebody who must know has seen it so: what else it might have been it is not. All of it survives so many losses again.
    pub(crate) fn settle(&mut self, seen: Option<&[u8]>, survives: u8) {
        let is_seen = |content: &Option<Content>| match (content, seen) {
            (Some(content), Some(bytes)) => content.len == bytes.len() && content.bytes() == bytes,
            (None, None) => true,
            _ => false,
        };
        let found = self
            .maybe
            .iter()
            .chain([&self.sure])
            .find(|content| is_seen(content))
            .copied();
        let is_lost = seen.is_none() && !self.is_due();
        self.sure = found.unwrap_or(if is_lost { None } else { self.sure });
        self.maybe.clear();
        self.safety = Safety::of(survives);
    }

    /// A domain was lost, for now or for ever.
    pub(crate) fn lose(&mut self, domain: usize) {
        self.safety.lose(domain);
    }

    /// Whether it must be readable now.
    pub(crate) fn is_due(&self) -> bool {
        self.safety.is_due()
    }

    /// Whether it is there, as far as that is known.
    pub(crate) fn is_there(&self) -> bool {
        self.sure.is_some()
    }

    /// What is wrong with what a reader saw who is connected and has heard the news; nothing when it is as promised.
    pub(crate) fn judge(&self, seen: &Seen) -> Result<(), String> {
        let allowed = || self.maybe.iter().chain([&self.sure]);
        match seen {
            Seen::Bytes(bytes) => {
                let is_one = |content: &Content| content.len == bytes.len() && content.bytes() == *bytes;
                if allowed().flatten().any(is_one) {
                    return Ok(());
                }
                Err(match self.ever.iter().find(|content| is_one(content)) {
                    Some(_) if self.sure.is_none() => "what was removed is back".to_owned(),
                    Some(_) => "an earlier state is back".to_owned(),
                    None => format!("{} wrong bytes", bytes.len()),
                })
            }
            Seen::Absent if allowed().any(Option::is_none) => Ok(()),
            // A name is as safe as what it names: one that was written on a machine cut off from all is lost with it.
            Seen::Absent if !self.is_due() => Ok(()),
            Seen::Absent => Err("what was acknowledged is gone".to_owned()),
            Seen::Refused(reason) if self.is_due() => Err(format!("what was acknowledged cannot be read: {reason}")),
            Seen::Refused(_) => Ok(()),
        }
    }

    /// The same for one who may not have heard the news, or not reach enough others: it may see what once was, or be told that it cannot; never anything else.
    pub(crate) fn judge_lenient(&self, seen: &Seen) -> Result<(), String> {
        match seen {
            Seen::Bytes(bytes) => {
                let is_one = |content: &&Content| content.len == bytes.len() && content.bytes() == *bytes;
                match self.ever.iter().find(is_one) {
                    Some(_) => Ok(()),
                    None => Err(format!("{} wrong bytes", bytes.len())),
                }
            }
            Seen::Absent | Seen::Refused(_) => Ok(()),
        }
    }
}

/// All files of all persons.
pub(crate) type Ledger = BTreeMap<(usize, String), Promise>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_kept_to_the_letter() {
        let content = |seed| Content { seed, len: 100 };
        let mut promise = Promise::default();
        promise.attempt(Some(content(1)));
        promise.judge(&Seen::Absent).unwrap();
        promise.judge(&Seen::Bytes(content(1).bytes())).unwrap();
        promise.acknowledge(Some(content(2)), 1);
        assert!(promise.judge(&Seen::Bytes(content(1).bytes())).is_err());
        assert!(promise.judge(&Seen::Absent).is_err());
        promise.judge(&Seen::Bytes(content(2).bytes())).unwrap();
        promise.judge_lenient(&Seen::Bytes(content(1).bytes())).unwrap();
        assert!(promise.judge_lenient(&Seen::Bytes(vec![0; 100])).is_err());
        let refused = Seen::Refused("no".to_owned());
        promise.lose(3);
        promise.lose(3);
        assert!(promise.judge(&refused).is_err());
        promise.lose(4);
        promise.judge(&refused).unwrap();
        promise.judge(&Seen::Absent).unwrap();
        promise.attempt(None);
        promise.withdraw(None);
        assert!(promise.judge(&Seen::Bytes(content(2).bytes())).is_ok());
        promise.settle(None, 2);
        assert!(promise.judge(&Seen::Bytes(content(2).bytes())).is_err());
        promise.acknowledge(None, 1);
        assert!(promise.judge(&Seen::Bytes(content(2).bytes())).is_err());
        promise.judge(&Seen::Absent).unwrap();
    }

    #[test]
    fn what_a_snapshot_has_is_not_what_the_file_becomes() {
        let content = |seed| Content { seed, len: 100 };
        let seen = |seed| Seen::Bytes(content(seed).bytes());
        let mut promise = Promise::default();
        promise.acknowledge(Some(content(1)), 2);
        promise.lose(3);
        let noted = promise.noted(&Safety::of(1)).unwrap();
        promise.attempt(None);
        assert!(promise.noted(&Safety::of(1)).is_none(), "nobody knows what it is");
        promise.acknowledge(Some(content(2)), 2);
        noted.judge(&seen(1)).unwrap();
        assert!(noted.judge(&seen(2)).is_err());
        assert!(noted.judge(&Seen::Absent).is_err());
        promise.attempt_to_bring_back(Some(&noted));
        promise.judge(&seen(1)).unwrap();
        promise.judge(&seen(2)).unwrap();
        promise.brought_back(&noted);
        assert!(promise.judge(&seen(2)).is_err());
        assert!(promise.is_due());
        promise.lose(4);
        assert!(!promise.is_due(), "the snapshot survives one loss");
    }
}
