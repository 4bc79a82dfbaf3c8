//! Who has agreed to what, and need not be asked again.

use potluck_types::NodeId;
use std::collections::BTreeMap;

/// What each peer has agreed to on the connection that it has now: one that connects anew may have been restarted, and know nothing of it.
#[derive(Debug)]
pub(crate) struct Agreed<T> {
    connects: u64,
    by: BTreeMap<NodeId, T>,
}

/// When a question was asked: its answer does not count after somebody has connected since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(u64);

impl<T> Default for Agreed<T> {
    fn default() -> Self {
        Self {
            connects: 0,
            by: BTreeMap::new(),
        }
    }
}

impl<T: PartialEq> Agreed<T> {
    /// Before a question.
    pub(crate) fn asking(&self) -> Asked {
        Asked(self.connects)
    }

    /// A peer has agreed.
    pub(crate) fn note(&mut self, asked: Asked, node: NodeId, what: T) {
        if asked.0 == self.connects {
            self.by.insert(node, what);
        }
    }

    /// Whether a peer has agreed to just that.
    pub(crate) fn has(&self, node: NodeId, what: &T) -> bool {
        self.get(node) == Some(what)
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&T> {
        self.by.get(&node)
    }

    pub(crate) fn connected(&mut self, node: NodeId) {
        self.connects += 1;
        self.forget(node);
    }

    pub(crate) fn forget(&mut self, node: NodeId) -> Option<T> {
        self.by.remove(&node)
    }

    /// All are to be asked again.
    pub(crate) fn clear(&mut self) {
        self.by.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_peer_connected_anew_does_not_count() {
        let [one, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let mut agreed = Agreed::default();
        let asked = agreed.asking();
        agreed.note(asked, one, 'a');
        agreed.note(asked, other, 'a');
        assert!(agreed.has(one, &'a') && !agreed.has(one, &'b'));
        agreed.connected(one);
        assert!(!agreed.has(one, &'a') && agreed.has(other, &'a'));
        agreed.note(asked, one, 'a');
        assert_eq!(agreed.get(one), None);
        agreed.note(agreed.asking(), one, 'b');
        assert!(agreed.has(one, &'b'));
        agreed.clear();
        assert_eq!((agreed.get(one), agreed.get(other)), (None, None));
    }
}
