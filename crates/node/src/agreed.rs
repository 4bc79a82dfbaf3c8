//! Who has agreed to what, and need not be asked again.

use potluck_types::NodeId;
use std::collections::BTreeMap;

/// What each peer has agreed to on the connection that it has now: one that connects anew may have been restarted, and know nothing of it.
#[derive(Debug)]
pub(crate) struct Agreed<T> {
    questions: u64,
    by: BTreeMap<NodeId, Answer<T>>,
}

#[derive(Debug)]
enum Answer<T> {
    /// It was asked, this number of all questions.
    Awaited(u64),
    Given(T),
}

/// A question. Its answer does not count where something has been forgotten since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(u64);

impl<T> Default for Agreed<T> {
    fn default() -> Self {
        Self {
            questions: 0,
            by: BTreeMap::new(),
        }
    }
}

impl<T: PartialEq> Agreed<T> {
    /// A peer is asked: what it has agreed to before does not count any more.
    pub(crate) fn ask(&mut self, node: NodeId) -> Asked {
        self.questions += 1;
        self.by.insert(node, Answer::Awaited(self.questions));
        Asked(self.questions)
    }

    /// It has answered; with nothing, when it does not agree.
    pub(crate) fn answered(&mut self, asked: Asked, node: NodeId, what: Option<T>) {
        if !matches!(self.by.get(&node), Some(Answer::Awaited(question)) if *question == asked.0) {
            return;
        }
        match what {
            Some(what) => _ = self.by.insert(node, Answer::Given(what)),
            None => _ = self.by.remove(&node),
        }
    }

    /// Whether a peer has agreed to just that.
    pub(crate) fn has(&self, node: NodeId, what: &T) -> bool {
        self.get(node) == Some(what)
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&T> {
        match self.by.get(&node)? {
            Answer::Given(what) => Some(what),
            Answer::Awaited(_) => None,
        }
    }

    /// Whether a peer has agreed to something, or is just being asked.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.by.contains_key(&node)
    }

    /// A peer is to be asked again. Whether there was anything to forget.
    pub(crate) fn forget(&mut self, node: NodeId) -> bool {
        self.by.remove(&node).is_some()
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.by.retain(|node, _| keep(*node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_while_nothing_was_forgotten() {
        let [one, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let mut agreed = Agreed::default();
        let (first, second) = (agreed.ask(one), agreed.ask(other));
        assert!(agreed.knows(one) && agreed.get(one).is_none());
        agreed.answered(first, one, Some('a'));
        agreed.answered(second, other, Some('a'));
        assert!(agreed.has(one, &'a') && !agreed.has(one, &'b'));
        // What was forgotten, or asked anew, is not agreed to by an answer to what was asked before.
        let late = agreed.ask(one);
        assert!(!agreed.has(one, &'a'));
        assert!(agreed.forget(one) && !agreed.forget(one));
        agreed.answered(late, one, Some('a'));
        assert!(!agreed.knows(one));
        let (late, last) = (agreed.ask(one), agreed.ask(one));
        agreed.answered(late, one, Some('a'));
        assert!(!agreed.has(one, &'a'));
        agreed.answered(last, one, Some('b'));
        assert!(agreed.has(one, &'b'));
        // One that does not agree.
        let asked = agreed.ask(one);
        agreed.answered(asked, one, None);
        assert!(!agreed.knows(one));
        agreed.retain(|node| node == one);
        assert!(!agreed.knows(other));
    }
}
