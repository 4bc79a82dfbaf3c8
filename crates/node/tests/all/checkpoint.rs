//! Checkpoints: a machine that has read nothing of a space yet takes what its logs add up to, and has what one has that replays them.

use crate::{
    common::{Pool, READ, WRITE, bytes, eventually, files_of, name, put_into, read, read_when_named},
    share::{accepted, with_guests},
};
use potluck_node::{
    AccessChange, AccessEvent, Fault, Finding, FsckOptions, FsckReport, Node, RemoveOptions, Space, fsck,
};
use potluck_spaces::{Name, Path};
use potluck_types::SpaceName;
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(3600);

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

async fn remove(space: &Space, at: &str) {
    let options = RemoveOptions {
        recursive: true,
        now: false,
        confirmed: true,
    };
    space.remove(&path(at), options).await.unwrap();
}

/// Files that come, change and go, with a snapshot between.
async fn live_in(space: &Space) {
    for i in 0..20 {
        put_into(space, &format!("/tree/{}/{i}", i % 3), format!("first {i}").as_bytes())
            .await
            .unwrap();
    }
    put_into(space, "/large", &bytes(1, 2_500_000)).await.unwrap();
    let called: Name = "before".to_owned().try_into().unwrap();
    space.take_snapshot(Some(called)).await.unwrap();
    for i in 0..10 {
        put_into(space, &format!("/tree/{}/{i}", i % 3), format!("second {i}").as_bytes())
            .await
            .unwrap();
    }
    space.rename(&path("/tree/2"), &path("/elsewhere")).await.unwrap();
    remove(space, "/tree/1").await;
}

/// What a person sees of a space: paths with their lengths, the trash, and the snapshots.
async fn seen(space: &Space) -> (Vec<(String, u64)>, Vec<String>, usize) {
    let mut listing = space.trash(&Path::root()).await.unwrap();
    let mut trash = Vec::new();
    loop {
        let page = listing.next().await.unwrap();
        if page.is_empty() {
            break;
        }
        trash.extend(page.into_iter().map(|trashed| format!("{trashed:?}")));
    }
    trash.sort();
    (files_of(space).await, trash, space.snapshots().await.unwrap().len())
}

/// The checkpoint that a machine has taken a space from, in entries; none when it has replayed the logs.
async fn taken(node: &Node, space: &SpaceName) -> Option<u64> {
    let info = node.space_info(space).await.unwrap();
    info.taken.map(|taken| taken.entries)
}

/// Makes a checkpoint; how many entries it stands for.
async fn made(node: &Node, space: &SpaceName) -> u64 {
    assert!(node.make_checkpoint(space).await.unwrap());
    let info = node.space_info(space).await.unwrap();
    info.checkpoint.expect("it was made just now").entries
}

/// A new space that was [lived in](live_in), and the entries that a checkpoint of that stands for.
async fn lived_in(owner: &Node, called: &SpaceName) -> (Space, u64) {
    owner.create_space(called.clone()).await.unwrap();
    let space = owner.space(called).unwrap();
    live_in(&space).await;
    let entries = made(owner, called).await;
    (space, entries)
}

/// One machine shows what another does of a space that was lived in, and can read it.
async fn has_what_is_in(one: &Space, other: &Space) {
    eventually("it sees the same", || async { seen(one).await == seen(other).await }).await;
    assert_eq!(read(one, "/large").await.unwrap(), bytes(1, 2_500_000));
}

/// What is wrong in the home of one that was just killed.
fn fsck_of(pool: &Pool, i: usize) -> FsckReport {
    for _ in 0..200 {
        match fsck(pool.members[i].home.path(), &FsckOptions::default(), |_| {}) {
            Ok(report) => return report,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    panic!("the home stays locked");
}

async fn has_all_history(node: &Node, space: &SpaceName) {
    eventually("the history is here", || async {
        node.space_info(space).await.unwrap().history.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_joins_takes_a_checkpoint_and_has_what_the_others_have() {
    let mut pool = Pool::of(2, GRACE).await;
    let home = SpaceName::home();
    let space = pool.node(0).private();
    live_in(&space).await;
    let entries = made(pool.node(0), &home).await;
    // What comes after it is replayed.
    put_into(&space, "/later", b"later").await.unwrap();
    remove(&space, "/tree/0/0").await;
    pool.add().await;
    pool.all_see_each_other().await;
    let newcomer = pool.node(2);
    assert_eq!(read_when_named(&newcomer.private(), "/later").await, b"later");
    assert_eq!(taken(newcomer, &home).await, Some(entries));
    has_what_is_in(&newcomer.private(), &space).await;
    assert_eq!(read(&newcomer.private(), "/tree/0/3").await.unwrap(), b"second 3");
    // It writes on, and the others hear it.
    put_into(&newcomer.private(), "/mine", b"mine").await.unwrap();
    assert_eq!(read_when_named(&space, "/mine").await, b"mine");
    has_all_history(newcomer, &home).await;
    let verified = newcomer.verify(&home).await.unwrap();
    assert_eq!(
        (verified.problems_count, verified.digest),
        (0, pool.node(0).verify(&home).await.unwrap().digest)
    );
    // It outlasts a restart, and is sound.
    pool.kill(2).await;
    let report = fsck_of(&pool, 2);
    let wrong = |finding: &&Finding| finding.fault != Fault::Exposed;
    assert_eq!(report.findings.iter().find(wrong), None);
    assert_eq!(report.unfilled, 0);
    pool.restart(2).await;
    assert_eq!(seen(&pool.node(2).private()).await, seen(&pool.node(0).private()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_makes_one_and_what_is_erased_is_in_none() {
    let (pool, others) = with_guests(&["bob"]).await;
    let (owner, bob, photos) = (pool.node(0), &others[0].0, name("photos"));
    owner.create_space(photos.clone()).await.unwrap();
    let space = owner.space(&photos).unwrap();
    put_into(&space, "/kept", &bytes(1, 1000)).await.unwrap();
    put_into(&space, "/secret", &bytes(2, 1000)).await.unwrap();
    owner.share(&photos, "bob", WRITE).await.unwrap();
    let theirs = accepted(bob, "photos").await;
    read_when_named(&theirs, "/secret").await;
    assert!(!bob.make_checkpoint(&photos).await.unwrap());
    assert!(owner.make_checkpoint(&photos).await.unwrap());
    let checkpoint = || async { owner.space_info(&photos).await.unwrap().checkpoint };
    assert!(checkpoint().await.is_some());
    // It is no link.
    assert!(owner.links(&photos).await.unwrap().is_empty());
    let events = owner.access_log(&photos).await.unwrap();
    let is_link = |event: &AccessEvent| matches!(event.what, AccessChange::LinkMade { .. });
    assert!(!events.iter().any(is_link), "{events:?}");
    let erase = async |of: &Space, at: &str| {
        let known = of.erasable(&path(at)).await.unwrap().known;
        of.erase(&photos, &path(at), known).await.unwrap();
    };
    erase(&space, "/secret").await;
    assert_eq!(checkpoint().await, None);
    // Also what had no name any more.
    put_into(&space, "/gone", &bytes(3, 1000)).await.unwrap();
    assert!(owner.make_checkpoint(&photos).await.unwrap());
    let options = RemoveOptions {
        recursive: false,
        now: true,
        confirmed: true,
    };
    space.remove(&path("/gone"), options).await.unwrap();
    erase(&space, "/gone").await;
    assert_eq!(checkpoint().await, None);
    // And what somebody else erases.
    put_into(&theirs, "/theirs", &bytes(4, 1000)).await.unwrap();
    read_when_named(&space, "/theirs").await;
    assert!(owner.make_checkpoint(&photos).await.unwrap());
    assert!(checkpoint().await.is_some());
    erase(&theirs, "/theirs").await;
    eventually("no checkpoint has it", || async { checkpoint().await.is_none() }).await;
    // What is made after the keys are others is found under those.
    assert!(owner.make_checkpoint(&photos).await.unwrap());
    owner.unshare(&photos, "bob").await.unwrap();
    assert_eq!(checkpoint().await, None);
    assert!(owner.make_checkpoint(&photos).await.unwrap());
    assert_eq!(read(&space, "/kept").await.unwrap(), bytes(1, 1000));
    // Where a folder is shared alone there is none.
    put_into(&space, "/folder/file", b"file").await.unwrap();
    assert!(owner.make_checkpoint(&photos).await.unwrap());
    owner.share_below(&photos, &path("/folder"), "bob", READ).await.unwrap();
    assert_eq!(checkpoint().await, None);
    assert!(!owner.make_checkpoint(&photos).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_kept_the_logs_before_they_could_read_them_opens_none_that_a_checkpoint_stands_for() {
    let (pool, others) = with_guests(&["bob"]).await;
    let (owner, bob, photos) = (pool.node(0), &others[0].0, name("photos"));
    let (space, entries) = lived_in(owner, &photos).await;
    put_into(&space, "/later", b"later").await.unwrap();
    remove(&space, "/tree/0/0").await;
    // Of two machines each keeps all logs.
    owner.share(&photos, "bob", WRITE).await.unwrap();
    let theirs = accepted(bob, "photos").await;
    assert_eq!(read_when_named(&theirs, "/later").await, b"later");
    assert_eq!(taken(bob, &photos).await, Some(entries));
    has_what_is_in(&theirs, &space).await;
    put_into(&theirs, "/theirs", b"theirs").await.unwrap();
    assert_eq!(read_when_named(&space, "/theirs").await, b"theirs");
    has_all_history(bob, &photos).await;
    let digest = async |node: &Node| {
        let verified = node.verify(&photos).await.unwrap();
        assert_eq!(verified.problems_count, 0);
        verified.digest
    };
    assert_eq!(digest(bob).await, digest(owner).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_checkpoint_was_let_go_of_the_logs_are_opened() {
    let (pool, others) = with_guests(&["bob"]).await;
    let (owner, bob, photos) = (pool.node(0), &others[0].0, name("photos"));
    let (space, _) = lived_in(owner, &photos).await;
    // What is erased takes it along. That one was published is still told.
    let known = space.erasable(&path("/tree/0/3")).await.unwrap().known;
    space.erase(&photos, &path("/tree/0/3"), known).await.unwrap();
    owner.share(&photos, "bob", WRITE).await.unwrap();
    let theirs = accepted(bob, "photos").await;
    assert_eq!(read_when_named(&theirs, "/tree/0/6").await, b"second 6");
    assert_eq!(taken(bob, &photos).await, None);
    has_what_is_in(&theirs, &space).await;
}
