//! Snapshots: what was there at a moment can be brought back, whatever became of it.

use crate::common::{Pool, bytes, eventually, put_into, read};
use potluck_node::{Node, NodeError, RemoveOptions, Space};
use potluck_spaces::{Name, Path};
use std::{collections::BTreeMap, time::Duration};

const GRACE: Duration = Duration::from_secs(3600);

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn called(text: &str) -> Name {
    text.to_owned().try_into().unwrap()
}

async fn remove(space: &Space, at: &str, now: bool) -> u64 {
    let options = RemoveOptions {
        recursive: true,
        now,
        confirmed: true,
    };
    space.remove(&path(at), options).await.unwrap().held
}

/// All that is over is let go of.
async fn sweep(node: &Node) {
    node.sweep(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_holds_comes_back_whatever_became_of_it() {
    // What is removed here is let go of at once.
    let pool = Pool::keeping(2, GRACE, Duration::ZERO).await;
    let (node, space) = (pool.node(0), pool.node(0).private());
    let large = bytes(1, 3_000_000);
    let before: [(&str, &[u8]); 6] = [
        ("/overwritten", b"old"),
        ("/removed/deep/large", &large),
        ("/removed/small", b"small"),
        ("/renamed", b"renamed"),
        ("/again", b"the same"),
        ("/kept", b"kept"),
    ];
    for (at, content) in before {
        put_into(&space, at, content).await.unwrap();
    }
    let info = space.take_snapshot(Some(called("before"))).await.unwrap();
    assert_eq!((info.held, info.held_bytes), (0, 0));
    put_into(&space, "/overwritten", b"new").await.unwrap();
    assert_eq!(remove(&space, "/removed", true).await, 2);
    space.rename(&path("/renamed"), &path("/elsewhere")).await.unwrap();
    assert_eq!(remove(&space, "/elsewhere", true).await, 0);
    put_into(&space, "/again", b"the same").await.unwrap();
    remove(&space, "/again", true).await;
    put_into(&space, "/since", b"since").await.unwrap();
    // What came since, and went, is nobody's.
    put_into(&space, "/passing", &bytes(2, 500_000)).await.unwrap();
    assert_eq!(remove(&space, "/passing", true).await, 0);
    sweep(node).await;
    let emptied = space.empty_trash(&path("/")).await.unwrap();
    assert_eq!((emptied.files, emptied.held), (0, 5));
    sweep(node).await;
    let info = space.snapshots().await.unwrap().remove(0);
    assert_eq!((info.held, info.held_bytes), (5, 3_000_000 + 3 + 5 + 7 + 8));
    let report = space
        .restore_snapshot(&called("before"), &path("/"), None)
        .await
        .unwrap();
    assert_eq!((report.files, report.skipped), (5, 0));
    for (at, content) in before {
        assert_eq!(read(&space, at).await.unwrap(), content, "{at}");
    }
    assert_eq!(read(&space, "/since").await.unwrap(), b"since");
    // Once more brings nothing back twice.
    let report = space
        .restore_snapshot(&called("before"), &path("/"), None)
        .await
        .unwrap();
    assert_eq!(report.files, 0);
    // Without its snapshot nothing holds it.
    space.remove_snapshot(&called("before")).await.unwrap();
    sweep(node).await;
    assert_eq!(node.status().await.unwrap().trash.files, 0);
    for (at, content) in before {
        assert_eq!(read(&space, at).await.unwrap(), content, "{at}");
    }
    let gone = space.restore_snapshot(&called("before"), &path("/"), None).await;
    assert!(matches!(gone, Err(NodeError::NoSuchSnapshot(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_everywhere_and_outlasts_the_time_of_the_trash() {
    let retention = Duration::from_secs(1);
    let mut pool = Pool::keeping(2, GRACE, retention).await;
    let (mine, other) = (pool.node(0).private(), pool.node(1).private());
    put_into(&mine, "/a", b"one").await.unwrap();
    let first = mine.take_snapshot(Some(called("first"))).await.unwrap();
    assert!(matches!(
        mine.take_snapshot(Some(called("first"))).await,
        Err(NodeError::SnapshotExists(_))
    ));
    put_into(&mine, "/a", b"two").await.unwrap();
    let second = mine.take_snapshot(None).await.unwrap();
    assert!(first.at < second.at);
    eventually("the other machine has heard of both", || async {
        other.snapshots().await.unwrap().len() == 2
    })
    .await;
    // By the other machine.
    put_into(&other, "/a", b"three").await.unwrap();
    // What nothing holds goes when its time is over, and that of the other versions is over then, too.
    put_into(&other, "/b", b"x").await.unwrap();
    remove(&other, "/b", false).await;
    eventually("the time of the trash is over", || async {
        sweep(pool.node(1)).await;
        let mut listing = other.trash(&path("/b")).await.unwrap();
        listing.next().await.unwrap().is_empty()
    })
    .await;
    let mut listing = other.trash(&path("/a")).await.unwrap();
    let kept = listing.next().await.unwrap();
    let held_by: Vec<_> = kept.iter().map(|kept| kept.snapshot.clone().unwrap()).collect();
    assert_eq!(held_by, [second.name.clone(), called("first")]);
    // To another place, so that what is there now stays.
    for (name, content) in [(called("first"), b"one"), (second.name.clone(), b"two")] {
        let to = path(&format!("/{name}"));
        let report = mine
            .restore_snapshot(&name, &path("/a"), Some(to.clone()))
            .await
            .unwrap();
        assert_eq!(report.files, 1);
        assert_eq!(read(&mine, &to.to_string()).await.unwrap(), content);
    }
    assert_eq!(read(&mine, "/a").await.unwrap(), b"three");
    // A crash takes nothing of it. Whoever has a handle on a space keeps its node.
    drop(mine);
    pool.kill(0).await;
    pool.restart(0).await;
    assert_eq!(pool.node(0).private().snapshots().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_from_a_directory_that_was_moved_comes_back_where_it_is_now() {
    let pool = Pool::keeping(1, GRACE, Duration::ZERO).await;
    let space = pool.node(0).private();
    put_into(&space, "/d/e/gone", b"gone").await.unwrap();
    put_into(&space, "/d/e/there", b"there").await.unwrap();
    space.take_snapshot(Some(called("before"))).await.unwrap();
    space.rename(&path("/d/e"), &path("/moved")).await.unwrap();
    remove(&space, "/moved/gone", true).await;
    let report = space
        .restore_snapshot(&called("before"), &path("/"), None)
        .await
        .unwrap();
    assert_eq!(report.files, 1);
    assert_eq!(read(&space, "/moved/gone").await.unwrap(), b"gone");
    assert!(space.list(&path("/d"), None, 9).await.unwrap().is_empty());
    // Also when the directory itself went then, with all that was in it.
    remove(&space, "/moved", true).await;
    space
        .restore_snapshot(&called("before"), &path("/"), None)
        .await
        .unwrap();
    for (at, content) in [("/moved/gone", &b"gone"[..]), ("/moved/there", b"there")] {
        assert_eq!(read(&space, at).await.unwrap(), content);
    }
}

/// A generator of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    /// One of few places, so that they are met again; files lie in `/d0` to `/d3`.
    fn place(&mut self) -> String {
        format!("/d{}/f{}", self.below(4), self.below(5))
    }

    /// Little, or so much that it has stripes of its own; and the same again now and then.
    fn content(&mut self) -> Vec<u8> {
        let seed = self.below(6) as u64;
        bytes(seed, [7, 9000, 400_000][self.below(3)])
    }
}

/// Does something, as a person may; what cannot be done is not.
async fn do_something(node: &Node, space: &Space, random: &mut Random, now: &mut BTreeMap<String, Vec<u8>>) {
    let (at, to) = (random.place(), random.place());
    match random.below(8) {
        0..=2 => {
            let content = random.content();
            put_into(space, &at, &content).await.unwrap();
            now.insert(at, content);
        }
        3 => {
            if space.rename(&path(&at), &path(&to)).await.is_ok() {
                let content = now.remove(&at).unwrap();
                now.insert(to, content);
            }
        }
        4 => {
            if now.remove(&at).is_some() {
                remove(space, &at, random.below(2) == 0).await;
            }
        }
        5 => {
            let directory = &at[..3];
            if now.keys().any(|at| at.starts_with(directory)) {
                remove(space, directory, true).await;
                now.retain(|at, _| !at.starts_with(directory));
            }
        }
        6 => drop(space.empty_trash(&path("/")).await.unwrap()),
        _ => sweep(node).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_after_a_snapshot_it_brings_all_of_it_back() {
    let pool = Pool::keeping(1, GRACE, Duration::ZERO).await;
    let node = pool.node(0);
    for seed in 0..30 {
        let (mut random, mut now) = (Random(seed), BTreeMap::new());
        let space_name = crate::common::name(&format!("s{seed}"));
        node.create_space(space_name.clone()).await.unwrap();
        let space = node.space(&space_name).unwrap();
        let mut taken = Vec::new();
        for step in 0..45 {
            if step % 15 == 12 {
                let name = called(&format!("at-{step}"));
                space.take_snapshot(Some(name.clone())).await.unwrap();
                taken.push((name, now.clone()));
            }
            do_something(node, &space, &mut random, &mut now).await;
        }
        sweep(node).await;
        // The latest last: what each brings back is overwritten by the next.
        for (name, then) in taken {
            let report = space.restore_snapshot(&name, &path("/"), None).await.unwrap();
            assert_eq!(report.skipped, 0, "seed {seed}, {name}");
            for (at, content) in then {
                let found = read(&space, &at).await;
                assert!(found.unwrap() == content, "seed {seed}, {name}: {at}");
            }
        }
    }
}
