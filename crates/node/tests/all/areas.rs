//! A directory of a space that somebody was let into, who sees nothing else of it.

use crate::{
    common::{
        Pool, READ, WRITE, bytes, config, eventually, files_of, name, put_into, read, read_when_named, sees, started,
    },
    share::{accepted, with_guests},
};
use potluck_node::{
    AccessChange, AccessEvent, Fault, FsckOptions, Node, NodeError, Part, Path, RemoveOptions, RestoreOptions, Space,
    TreeError, Which, fsck,
};
use std::time::Duration;
use tempfile::TempDir;

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

/// Anna's machines, those of others, and a space of hers.
async fn party(guests: &[&str]) -> (Pool, Vec<(Node, TempDir)>, Space) {
    let (pool, others) = with_guests(guests).await;
    pool.node(0).create_space(name("photos")).await.unwrap();
    let photos = pool.node(0).space(&name("photos")).unwrap();
    (pool, others, photos)
}

/// All files of a space, with their directories.
async fn tree(space: &Space) -> Vec<String> {
    files_of(space).await.into_iter().map(|(path, _)| path).collect()
}

async fn until_tree(space: &Space, expected: &[&str]) {
    let seen = async || tree(space).await == expected;
    if tokio::time::timeout(Duration::from_secs(60), eventually("the tree is as expected", seen))
        .await
        .is_err()
    {
        panic!("{:?}", tree(space).await);
    }
}

fn is_outside<T: std::fmt::Debug>(done: &Result<T, NodeError>) {
    assert!(matches!(done, Err(NodeError::OutsidePart)), "{done:?}");
}

fn only_part<T: std::fmt::Debug>(done: &Result<T, NodeError>) {
    assert!(matches!(done, Err(NodeError::OnlyPart(_))), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_into_a_directory_works_there_and_sees_nothing_else() {
    let (pool, mut others, photos) = party(&["bob", "carol"]).await;
    let anna = pool.node(0);
    // One that is inline, one in a pack, one of several chunks.
    let (small, packed, large) = (bytes(1, 40), bytes(2, 20_000), bytes(3, 3_000_000));
    for (at, content) in [
        ("/2025/secret", &packed),
        ("/2026/small", &small),
        ("/2026/trip/packed", &packed),
        ("/2026/trip/large", &large),
    ] {
        put_into(&photos, at, content).await.unwrap();
    }
    let let_in = anna
        .share_below(&name("photos"), &path("/2026"), "bob", WRITE)
        .await
        .unwrap();
    assert_eq!(let_in.member.prefix, Some(path("/2026")));
    let all = ["/2025/secret", "/2026/small", "/2026/trip/large", "/2026/trip/packed"];
    assert_eq!(tree(&photos).await, all, "nothing has changed for her");
    let bob = &others[0].0;
    let bobs = accepted(bob, "photos").await;
    until_tree(&bobs, &all[1..]).await;
    for (at, content) in [
        ("/2026/small", &small),
        ("/2026/trip/packed", &packed),
        ("/2026/trip/large", &large),
    ] {
        assert!(read(&bobs, at).await.unwrap() == *content);
        assert!(read(&photos, at).await.unwrap() == *content);
    }
    let info = bob.space_info(&name("photos")).await.unwrap();
    let part = Part {
        path: path("/2026"),
        may_write: true,
        until: None,
    };
    assert_eq!((info.parts, info.files), (vec![part], 3));
    // What he does there others see, and it is the same as if they had done it.
    put_into(&bobs, "/2026/by-bob/new", &large).await.unwrap();
    put_into(&bobs, "/2026/small", &packed).await.unwrap();
    bobs.rename(&path("/2026/trip"), &path("/2026/by-bob/trip"))
        .await
        .unwrap();
    bobs.remove(&path("/2026/by-bob/trip/packed"), RemoveOptions::default())
        .await
        .unwrap();
    let after = [
        "/2025/secret",
        "/2026/by-bob/new",
        "/2026/by-bob/trip/large",
        "/2026/small",
    ];
    until_tree(&photos, &after).await;
    assert!(read(&photos, "/2026/by-bob/new").await.unwrap() == large);
    assert!(read(&photos, "/2026/small").await.unwrap() == packed);
    let past = photos.versions(&path("/2026/small")).await.unwrap();
    let which = Which::Version(past.last().unwrap().id);
    let was = photos.download_of(&path("/2026/small"), which, None).await.unwrap();
    assert!(was.read_to_end().await.unwrap() == small);
    let packed_at = path("/2026/by-bob/trip/packed");
    photos.bring_back(&packed_at, RestoreOptions::default()).await.unwrap();
    assert!(read_when_named(&bobs, "/2026/by-bob/trip/packed").await == packed);
    // Elsewhere he does nothing, and does not see that there is anything.
    for at in ["/x", "/2025/x"] {
        is_outside(&put_into(&bobs, at, &small).await);
    }
    is_outside(&bobs.rename(&path("/2026/small"), &path("/small")).await);
    is_outside(&bobs.rename(&path("/2026"), &path("/2027")).await);
    is_outside(
        &bobs
            .remove(
                &path("/2026"),
                RemoveOptions {
                    recursive: true,
                    confirmed: true,
                    now: false,
                },
            )
            .await
            .map(|_| "all of it"),
    );
    assert!(matches!(
        read(&bobs, "/2025/secret").await,
        Err(NodeError::Tree(TreeError::NotFound(_)))
    ));
    only_part(&bobs.erasable(&path("/2026/small")).await);
    only_part(&bobs.take_snapshot(None).await);
    only_part(
        &bob.link(&name("photos"), &path("/2026"), potluck_node::LinkOptions::default())
            .await,
    );
    assert!(matches!(
        bob.share(&name("photos"), "carol", READ).await,
        Err(NodeError::MayNotShare(_))
    ));
    // What is in his tables follows from what he can read of the logs.
    drop(bobs);
    let (bob, home) = others.swap_remove(0);
    bob.stop().await;
    drop(bob);
    // Whoever tells others something just now holds on to the home for a moment.
    let checked = || fsck(home.path(), &FsckOptions::default(), |_| {});
    eventually("the home is given up", || async { checked().is_ok() }).await;
    let report = checked().unwrap();
    let is_of_tables = |finding: &&potluck_node::Finding| matches!(finding.fault, Fault::Tables { .. });
    assert!(
        !report.findings.iter().any(|finding| is_of_tables(&finding)),
        "{report:?}"
    );
}

/// What is moved in and out, more directories than one, whoever comes later, and who is taken out.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_moved_in_is_seen_and_what_is_written_after_the_end_is_not() {
    let (pool, others, photos) = party(&["bob", "carol"]).await;
    let anna = pool.node(0);
    let photos_name = name("photos");
    let content = bytes(4, 600_000);
    for at in ["/in/a", "/out/b/one", "/out/b/c/two", "/other/d"] {
        put_into(&photos, at, &content).await.unwrap();
    }
    anna.share_below(&photos_name, &path("/in"), "bob", READ).await.unwrap();
    let bobs = accepted(&others[0].0, "photos").await;
    until_tree(&bobs, &["/in/a"]).await;
    assert!(matches!(put_into(&bobs, "/in/x", b"x").await, Err(NodeError::ReadOnly)));
    // In, and out again.
    photos.rename(&path("/out/b"), &path("/in/b")).await.unwrap();
    until_tree(&bobs, &["/in/a", "/in/b/c/two", "/in/b/one"]).await;
    assert!(read(&bobs, "/in/b/c/two").await.unwrap() == content);
    photos.rename(&path("/in/b/c"), &path("/out/c")).await.unwrap();
    photos.rename(&path("/in/a"), &path("/out/a")).await.unwrap();
    until_tree(&bobs, &["/in/b/one"]).await;
    assert_eq!(tree(&photos).await, ["/in/b/one", "/other/d", "/out/a", "/out/c/two"]);
    assert!(read(&photos, "/out/c/two").await.unwrap() == content);
    // It is the same directory under whatever name.
    photos.rename(&path("/in"), &path("/out/in")).await.unwrap();
    put_into(&photos, "/out/in/e", &content).await.unwrap();
    until_tree(&bobs, &["/in/b/one", "/in/e"]).await;
    let members = anna.members(&photos_name).await.unwrap();
    assert_eq!(members[1].prefix, Some(path("/out/in")));
    // No directory in another one, and the other way round.
    let within = anna.share_below(&photos_name, &path("/out/in/b"), "bob", READ).await;
    assert!(matches!(within, Err(NodeError::WithinArea(_))), "{within:?}");
    let around = anna.share_below(&photos_name, &path("/out"), "bob", READ).await;
    assert!(matches!(around, Err(NodeError::AreaBelow)), "{around:?}");
    // Another one beside it, of which he may do more; and one of the same name.
    anna.share_below(&photos_name, &path("/other"), "bob", WRITE)
        .await
        .unwrap();
    until_tree(&bobs, &["/in/b/one", "/in/e", "/other/d"]).await;
    put_into(&bobs, "/other/by-bob", &content).await.unwrap();
    assert!(matches!(
        put_into(&bobs, "/in/x", b"x").await,
        Err(NodeError::OutsidePart)
    ));
    assert!(read_when_named(&photos, "/other/by-bob").await == content);
    // Out of the one, and in the other.
    anna.unshare_below(&photos_name, &path("/out/in"), "bob").await.unwrap();
    put_into(&photos, "/out/in/after", &content).await.unwrap();
    put_into(&photos, "/other/after", &content).await.unwrap();
    assert!(read_when_named(&bobs, "/other/after").await == content);
    assert!(tree(&bobs).await.iter().all(|at| !at.starts_with("/in/after")));
    // Who comes later reads what was written under the keys before.
    anna.share_below(&photos_name, &path("/out/in"), "carol", READ)
        .await
        .unwrap();
    let carols = accepted(&others[1].0, "photos").await;
    until_tree(&carols, &["/in/after", "/in/b/one", "/in/e"]).await;
    assert!(read(&carols, "/in/after").await.unwrap() == content);
    // Who is let into all of it sees all of it.
    anna.share(&photos_name, "carol", WRITE).await.unwrap();
    let all = tree(&photos).await;
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    until_tree(&carols, &all).await;
    assert!(read(&carols, "/out/a").await.unwrap() == content);
    put_into(&carols, "/other/by-carol", &content).await.unwrap();
    assert!(read_when_named(&bobs, "/other/by-carol").await == content);
}

/// What was written where one may not write any more is left out, and keeps nothing that counts from the others.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_taken_out_of_one_directory_while_away_goes_on_in_the_other() {
    let (mut pool, mut others, photos) = party(&["bob"]).await;
    let called = name("photos");
    for at in ["/a/one", "/b/one"] {
        put_into(&photos, at, b"one").await.unwrap();
    }
    for at in ["/a", "/b"] {
        pool.node(0)
            .share_below(&called, &path(at), "bob", WRITE)
            .await
            .unwrap();
    }
    let (bob, home) = others.pop().unwrap();
    let bobs = accepted(&bob, "photos").await;
    until_tree(&bobs, &["/a/one", "/b/one"]).await;
    let addresses = [pool.address(0), pool.address(1)];
    drop(photos);
    for at in [0, 1] {
        pool.kill(at).await;
    }
    eventually("he is alone", || async {
        let nodes = bob.status().await.unwrap().nodes;
        nodes.iter().filter(|node| node.away_since.is_some()).count() == 2
    })
    .await;
    for at in ["/a/away", "/b/away", "/a/more", "/b/more"] {
        put_into(&bobs, at, b"away").await.unwrap();
    }
    bobs.rename(&path("/b/more"), &path("/b/moved")).await.unwrap();
    drop(bobs);
    bob.stop().await;
    drop(bob);
    for (at, address) in addresses.into_iter().enumerate() {
        pool.restart_at(at, address).await;
    }
    sees(pool.node(0), 2).await;
    pool.node(0).unshare_below(&called, &path("/a"), "bob").await.unwrap();
    let bob = started(config(&home, Duration::from_secs(3600))).await;
    let photos = pool.node(0).space(&called).unwrap();
    until_tree(&photos, &["/a/one", "/b/away", "/b/moved", "/b/one"]).await;
    let bobs = bob.space(&called).unwrap();
    until_tree(&bobs, &["/b/away", "/b/moved", "/b/one"]).await;
    put_into(&bobs, "/b/after", b"after").await.unwrap();
    assert_eq!(read_when_named(&photos, "/b/after").await, b"after");
    assert!(matches!(
        put_into(&bobs, "/a/after", b"x").await,
        Err(NodeError::OutsidePart)
    ));
}

/// A directory that is shared alone and removed, what was in the trash before it was, snapshots, links and erasing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_with_any_directory_is_done_with_one_that_is_shared_alone() {
    let (pool, others, photos) = party(&["bob"]).await;
    let (anna, called) = (pool.node(0), name("photos"));
    let packed = bytes(5, 30_000);
    put_into(&photos, "/in/one", b"first").await.unwrap();
    put_into(&photos, "/in/one", &packed).await.unwrap();
    put_into(&photos, "/in/gone", &packed).await.unwrap();
    let options = RemoveOptions::default();
    photos.remove(&path("/in/gone"), options).await.unwrap();
    photos
        .take_snapshot(Some("before".to_owned().try_into().unwrap()))
        .await
        .unwrap();
    let link = anna
        .link(&called, &path("/in"), potluck_node::LinkOptions::default())
        .await
        .unwrap();
    anna.share_below(&called, &path("/in"), "bob", WRITE).await.unwrap();
    let bob = &others[0].0;
    let bobs = accepted(bob, "photos").await;
    until_tree(&bobs, &["/in/one"]).await;
    // What was removed before is brought back by who had it, and is his, too.
    photos
        .bring_back(&path("/in/gone"), RestoreOptions::default())
        .await
        .unwrap();
    assert!(read_when_named(&bobs, "/in/gone").await == packed);
    // A snapshot has what he replaces, and he knows of it.
    photos
        .take_snapshot(Some("then".to_owned().try_into().unwrap()))
        .await
        .unwrap();
    eventually("he hears of it", || async {
        bobs.snapshots().await.unwrap().len() == 1
    })
    .await;
    bobs.rename(&path("/in/one"), &path("/in/two")).await.unwrap();
    put_into(&bobs, "/in/gone", b"other").await.unwrap();
    until_tree(&photos, &["/in/gone", "/in/two"]).await;
    let snapshot = "then".to_owned().try_into().unwrap();
    photos.restore_snapshot(&snapshot, &path("/"), None).await.unwrap();
    assert!(read_when_named(&photos, "/in/one").await == packed);
    // A link goes on showing the directory that it was made for.
    eventually("the link shows what there is", || async {
        let linked = bob.open_link(&link.link.parse().unwrap(), None).await.unwrap();
        linked.list(&path("/"), None, 10).unwrap().len() == 3
    })
    .await;
    eventually("it is known where that is", || async {
        anna.links(&called).await.unwrap()[0].path.as_deref() == Some("/in")
    })
    .await;
    // Removed, and brought back: he is in it again.
    let all = RemoveOptions {
        recursive: true,
        confirmed: true,
        now: false,
    };
    photos.remove(&path("/in"), all).await.unwrap();
    until_tree(&bobs, &[]).await;
    photos
        .bring_back(&path("/in"), RestoreOptions::default())
        .await
        .unwrap();
    until_tree(&bobs, &["/in/gone", "/in/one", "/in/two"]).await;
    assert_eq!(anna.members(&called).await.unwrap()[1].prefix, Some(path("/in")));
    // Erased: for him, too.
    let known = photos.erasable(&path("/in/two")).await.unwrap().known;
    photos.erase(&called, &path("/in/two"), known).await.unwrap();
    until_tree(&bobs, &["/in/gone", "/in/one"]).await;
    put_into(&bobs, "/in/after", &packed).await.unwrap();
    assert!(read_when_named(&photos, "/in/after").await == packed);
    assert!(bob.verify(&called).await.is_ok());
}

/// What a person was told of a path holds, whatever comes beside it; and what they lose is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_was_let_into_keeps_its_name_and_what_ends_is_told() {
    let (pool, others, photos) = party(&["bob"]).await;
    let (anna, called) = (pool.node(0), name("photos"));
    for at in ["/x/plans/one", "/y/plans/two", "/z/plans/three"] {
        put_into(&photos, at, b"content").await.unwrap();
    }
    anna.share_below(&called, &path("/y/plans"), "bob", WRITE)
        .await
        .unwrap();
    let bobs = accepted(&others[0].0, "photos").await;
    until_tree(&bobs, &["/plans/two"]).await;
    for at in ["/z/plans", "/x/plans"] {
        let let_in = anna.share_below(&called, &path(at), "bob", READ).await.unwrap();
        assert!(!let_in.member.access.may_write && let_in.ended.is_empty());
    }
    until_tree(&bobs, &["/plans 2/three", "/plans 3/one", "/plans/two"]).await;
    put_into(&bobs, "/plans/mine", b"mine").await.unwrap();
    assert_eq!(read_when_named(&photos, "/y/plans/mine").await, b"mine");
    assert!(matches!(
        put_into(&bobs, "/plans 2/mine", b"mine").await,
        Err(NodeError::OutsidePart)
    ));
    // Out of the one that came first: the others keep their names.
    anna.unshare_below(&called, &path("/y/plans"), "bob").await.unwrap();
    until_tree(&bobs, &["/plans 2/three", "/plans 3/one"]).await;
    let access = anna.access_log(&called).await.unwrap();
    let is_out = |event: &AccessEvent| matches!(&event.what, AccessChange::TakenOut { prefix: Some(prefix), .. } if prefix == "/y/plans");
    assert_eq!(access.iter().filter(|event| is_out(event)).count(), 1);
    // With what it is in, removed and brought back.
    let all = RemoveOptions {
        recursive: true,
        confirmed: true,
        now: false,
    };
    photos.remove(&path("/x"), all).await.unwrap();
    until_tree(&bobs, &["/plans 2/three"]).await;
    photos.bring_back(&path("/x"), RestoreOptions::default()).await.unwrap();
    until_tree(&bobs, &["/plans 2/three", "/plans 3/one"]).await;
    // All of it, to read, and a directory alone again.
    let let_in = anna.share(&called, "bob", READ).await.unwrap();
    assert_eq!(let_in.ended, []);
    until_tree(
        &bobs,
        &["/x/plans/one", "/y/plans/mine", "/y/plans/two", "/z/plans/three"],
    )
    .await;
    let let_in = anna
        .share_below(&called, &path("/z/plans"), "bob", WRITE)
        .await
        .unwrap();
    assert_eq!((let_in.ended.len(), &let_in.ended[0].prefix), (1, &None));
    until_tree(&bobs, &["/plans 2/three"]).await;
}

/// A space that may hold so much holds no more by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_shared_alone_in_a_space_that_is_nearly_full() {
    let (pool, _others, photos) = party(&["bob"]).await;
    let (anna, called) = (pool.node(0), name("photos"));
    let quota = potluck_node::SpaceOptions {
        quota: potluck_node::Setting::To(potluck_types::ByteSize(1_000_000)),
        ..potluck_node::SpaceOptions::default()
    };
    anna.set_space(&called, quota).await.unwrap();
    put_into(&photos, "/in/large", &bytes(1, 700_000)).await.unwrap();
    put_into(&photos, "/in/small", &bytes(1, 70_000)).await.unwrap();
    anna.share_below(&called, &path("/in"), "bob", READ).await.unwrap();
    photos.rename(&path("/in/large"), &path("/large")).await.unwrap();
    assert_eq!(tree(&photos).await, ["/in/small", "/large"]);
}
