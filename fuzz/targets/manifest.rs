//! A file's content, and nodes that are said to be of its tree: two bytes of length, the content, and the node.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_dag::{Content, Walk};
use potluck_types::{from_canonical, to_canonical};

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let Some((content, node)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else {
        return;
    };
    let Ok(content) = from_canonical::<Content>(content).inspect(|known| assert_eq!(to_canonical(known), content))
    else {
        return;
    };
    let Content::Tree(tree) = content else { return };
    let wanted = tree.len() / 3..tree.len();
    let mut walk = Walk::new(tree, wanted.clone());
    let mut at = wanted.start;
    // One node for all levels: only the right one is taken, so this ends.
    while let Some(part) = walk.next() {
        if part.data_range().is_some() {
            assert_eq!(part.offset + part.wanted.start, at);
            at = part.offset + part.wanted.end;
        } else if walk.descend(&part, node).is_err() {
            return;
        }
    }
    assert_eq!(at, wanted.end);
});
