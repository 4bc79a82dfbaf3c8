//! What was promised: of each file, what was acknowledged last, what was tried since, and how many losses the acknowledgement can bear.

use std::collections::BTreeSet;

/// The content of a file: so many bytes from a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) len: usize,
}

impl Content {
    /// The bytes: they do not repeat, and cannot be compressed.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(&mut next).flatten().take(self.len).collect()
    }

    fn is(self, bytes: &[u8]) -> bool {
        self.len == bytes.len() && self.bytes() == bytes
    }
}

/// What a reader saw.
#[derive(Debug)]
pub(crate) enum Seen {
    Bytes(Vec<u8>),
    Absent,
    /// An error that says why.
    Refused(String),
    /// Nothing within the time.
    Nothing,
}

/// What a reader saw, against what was promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// What was acknowledged last, or tried since.
    Right,
    /// What once was: a machine that has not heard yet.
    Stale,
    /// Nothing, and nothing had to be.
    Excused,
    Wrong,
}

/// What is known of one file.
#[derive(Clone, Default, Debug)]
pub(crate) struct Promise {
    /// Acknowledged last; none when it was removed, or never there.
    last: Option<Content>,
    /// Tried since, and perhaps done.
    perhaps: Vec<Option<Content>>,
    /// Acknowledged by a machine with which something was wrong: whoever changed the file since may not have heard of it, and then it is there beside that.
    apart: Vec<Content>,
    /// What it was before.
    before: Vec<Option<Content>>,
    /// How many losses it can bear, and on which machines something went wrong since.
    survives: usize,
    hurt: BTreeSet<usize>,
}

impl Promise {
    /// Something is about to be tried.
    pub(crate) fn attempt(&mut self, content: Option<Content>) {
        self.perhaps.push(content);
    }

    /// It was done.
    pub(crate) fn acknowledge(&mut self, content: Option<Content>, survives: usize, hurt: &BTreeSet<usize>) {
        self.before.push(self.last);
        self.before.append(&mut self.perhaps);
        self.last = content;
        self.survives = survives;
        self.hurt.clone_from(hurt);
    }

    /// It was done by a machine with which something is wrong: nobody else may hear of it before all is mended.
    pub(crate) fn acknowledge_apart(&mut self, content: Content, survives: usize, hurt: &BTreeSet<usize>) {
        self.acknowledge(Some(content), survives, hurt);
        self.apart.push(content);
    }

    /// Something went wrong on a machine.
    pub(crate) fn hurt(&mut self, machine: usize) {
        self.hurt.insert(machine);
    }

    /// All is mended, and this is what is there.
    pub(crate) fn settle(&mut self, seen: Option<Content>, survives: usize) {
        self.before.push(self.last);
        self.before.append(&mut self.perhaps);
        self.before.extend(self.apart.drain(..).map(Some));
        self.last = seen;
        self.survives = survives;
        self.hurt.clear();
    }

    /// Which content the bytes are, of those that may be there now.
    pub(crate) fn which(&self, bytes: &[u8]) -> Option<Content> {
        let now = self.perhaps.iter().copied().chain([self.last]).flatten();
        let mut now = now.chain(self.apart.iter().copied());
        now.find(|content| content.is(bytes))
    }

    /// Whether it has to be there.
    pub(crate) fn is_there(&self) -> bool {
        self.last.is_some() && !self.perhaps.contains(&None)
    }

    /// Judges what was seen on a machine with which nothing is wrong.
    pub(crate) fn judge(&self, seen: &Seen) -> Verdict {
        let may_be_absent = self.last.is_none() || self.perhaps.contains(&None);
        match seen {
            Seen::Bytes(bytes) if self.which(bytes).is_some() => Verdict::Right,
            Seen::Bytes(bytes) if self.before.iter().flatten().any(|content| content.is(bytes)) => Verdict::Stale,
            Seen::Bytes(_) => Verdict::Wrong,
            Seen::Absent if may_be_absent => Verdict::Right,
            Seen::Absent if self.before.contains(&None) || self.before.is_empty() => Verdict::Stale,
            Seen::Absent => Verdict::Wrong,
            Seen::Refused(_) | Seen::Nothing if self.hurt.len() > self.survives || !self.is_there() => Verdict::Excused,
            Seen::Refused(_) | Seen::Nothing => Verdict::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(seed: u64) -> Content {
        Content { seed, len: 100 }
    }

    #[test]
    fn a_promise_is_kept_or_not() {
        let (one, two, three) = (content(1), content(2), content(3));
        let bytes = |content: Content| Seen::Bytes(content.bytes());
        let nobody = BTreeSet::new();
        let mut promise = Promise::default();
        promise.attempt(Some(one));
        assert_eq!(promise.judge(&Seen::Absent), Verdict::Right);
        assert_eq!(promise.judge(&bytes(one)), Verdict::Right);
        assert_eq!(promise.judge(&bytes(two)), Verdict::Wrong);
        promise.acknowledge(Some(one), 1, &nobody);
        assert_eq!(promise.judge(&Seen::Absent), Verdict::Stale);
        promise.attempt(Some(two));
        promise.acknowledge(Some(two), 1, &nobody);
        assert_eq!(promise.judge(&bytes(two)), Verdict::Right);
        assert_eq!(promise.judge(&bytes(one)), Verdict::Stale);
        assert_eq!(promise.judge(&bytes(three)), Verdict::Wrong);
        assert_eq!(promise.judge(&Seen::Nothing), Verdict::Wrong);
        promise.hurt(3);
        assert_eq!(promise.judge(&Seen::Refused(String::new())), Verdict::Wrong);
        promise.hurt(4);
        assert_eq!(promise.judge(&Seen::Refused(String::new())), Verdict::Excused);
        promise.attempt(None);
        assert!(!promise.is_there());
        promise.settle(None, 2);
        assert_eq!(promise.judge(&bytes(two)), Verdict::Stale);
        assert_eq!(promise.judge(&Seen::Absent), Verdict::Right);
        promise.acknowledge_apart(three, 0, &BTreeSet::from([2]));
        promise.acknowledge(None, 1, &nobody);
        assert_eq!(promise.judge(&bytes(three)), Verdict::Right);
        promise.settle(None, 2);
        assert_eq!(promise.judge(&bytes(three)), Verdict::Stale);
    }
}
