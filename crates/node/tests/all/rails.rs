//! What keeps people from losing more than they meant to: whole nodes over real connections on loopback.

use crate::common::{Pool, bytes, eventually, put, remove_now, within};
use potluck_node::{FileMeta, Has, Node, NodeError, PutOptions, RemoveOptions, RestoreOptions, RestoreReport, Trashed};
use potluck_types::{Clock, NodeId, SystemClock, Timestamp};
use std::{fs, path::Path as FilePath, time::Duration};
use tempfile::TempDir;

const GRACE: Duration = Duration::from_secs(3600);
const RECURSIVE: RemoveOptions = RemoveOptions {
    recursive: true,
    now: false,
    confirmed: false,
};

async fn trash(node: &Node, path: &str) -> Vec<Trashed> {
    let mut listing = node.private().trash(&path.parse().unwrap()).await.unwrap();
    let mut all = Vec::new();
    loop {
        let page = listing.next().await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

async fn bring_back(node: &Node, path: &str, at: Option<Timestamp>) -> Result<RestoreReport, NodeError> {
    let options = RestoreOptions {
        at,
        ..RestoreOptions::default()
    };
    node.private().bring_back(&path.parse().unwrap(), options).await
}

/// So many small files of this content in one directory.
async fn put_many(node: &Node, directory: &str, files: usize, content: &str) -> Result<(), NodeError> {
    let mut upload = node.private().upload(PutOptions::default())?;
    for number in 0..files {
        let meta = FileMeta {
            modified: Timestamp::from_millis(content.len() as u64),
            executable: false,
        };
        let path = format!("{directory}/{number}").parse().unwrap();
        let put = upload
            .put_file(path, meta, std::io::Cursor::new(content.as_bytes().to_vec()))
            .await;
        if put.is_err() {
            upload.keep().await?;
            return put;
        }
    }
    upload.finish().await.map(drop)
}

async fn count(node: &Node, directory: &str) -> usize {
    node.private()
        .list(&directory.parse().unwrap(), None, 10_000)
        .await
        .unwrap()
        .len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_or_overwritten_comes_back_on_any_machine() {
    let pool = Pool::of(3, GRACE).await;
    let (old, new, small) = (bytes(1, 3_000_000), bytes(2, 2_000_000), bytes(3, 9_000));
    pool.put(0, "/docs/a", &old).await;
    pool.put(0, "/docs/deep/er/b", &small).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = SystemClock.now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    pool.put(0, "/docs/a", &new).await;
    let removed = pool
        .node(1)
        .private()
        .remove(&"/docs".parse().unwrap(), RECURSIVE)
        .await
        .unwrap();
    assert_eq!(removed.files, 2);
    assert!(removed.until.unwrap() > SystemClock.now() + Duration::from_secs(29 * 86_400));
    eventually("the trash of another machine has it", || async {
        trash(pool.node(2), "/").await.len() == 3
    })
    .await;
    let found = trash(pool.node(2), "/docs/a").await;
    assert_eq!(
        found.iter().map(|version| version.overwritten).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(pool.node(2).status().await.unwrap().trash.files, 3);

    let back = bring_back(pool.node(2), "/docs", None).await.unwrap();
    assert_eq!((back.files, back.replaced, back.skipped), (2, 0, 0));
    pool.holds(0, "/docs/a", &new).await;
    pool.holds(1, "/docs/deep/er/b", &small).await;
    let back = bring_back(pool.node(0), "/docs/a", Some(before)).await.unwrap();
    assert_eq!((back.files, back.replaced), (1, 1));
    pool.holds(0, "/docs/a", &old).await;
    // And the other way round: nothing was lost by bringing something back.
    let back = bring_back(pool.node(0), "/docs/a", None).await.unwrap();
    assert_eq!((back.files, back.replaced), (1, 1));
    pool.holds(0, "/docs/a", &new).await;
    assert!(matches!(
        bring_back(pool.node(0), "/never", None).await,
        Err(NodeError::NotInTrash(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_elsewhere_leaves_what_is_there_alone() {
    let pool = Pool::of(1, GRACE).await;
    pool.put(0, "/a", b"one").await;
    pool.put(0, "/a", b"two").await;
    let to = |path: &str| RestoreOptions {
        to: Some(path.parse().unwrap()),
        ..RestoreOptions::default()
    };
    let node = pool.node(0);
    let taken = node.private().bring_back(&"/a".parse().unwrap(), to("/a")).await;
    assert!(taken.is_err(), "{taken:?}");
    node.private()
        .bring_back(&"/a".parse().unwrap(), to("/new/b"))
        .await
        .unwrap();
    pool.holds(0, "/a", b"two").await;
    pool.holds(0, "/new/b", b"one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_of_frees_its_room_and_does_not_come_back() {
    let pool = Pool::of(2, GRACE).await;
    for (path, seed) in [("/d/a", 11), ("/d/b", 12), ("/c", 13)] {
        pool.put(0, path, &bytes(seed, 1_000_000)).await;
    }
    pool.node(0)
        .private()
        .remove(&"/d".parse().unwrap(), RECURSIVE)
        .await
        .unwrap();
    pool.node(0)
        .private()
        .remove(&"/c".parse().unwrap(), RECURSIVE)
        .await
        .unwrap();
    pool.health("it is kept", |health| health.stripes() >= 3).await;
    assert_eq!(
        pool.node(0)
            .private()
            .empty_trash(&"/d".parse().unwrap())
            .await
            .unwrap()
            .files,
        2
    );
    assert!(bring_back(pool.node(0), "/d/a", None).await.is_err());
    // What has no name any more is let go of in the trash.
    remove_now(pool.node(1), "/c").await;
    pool.health("its room is free", |health| health.stripes() == 0).await;
    assert_eq!(pool.node(1).status().await.unwrap().trash.files, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_time_is_over_on_whichever_machine_looks_first() {
    let mut pool = Pool::keeping(2, GRACE, Duration::from_secs(2)).await;
    pool.put(0, "/a", &bytes(5, 1_000_000)).await;
    pool.node(0)
        .private()
        .remove(&"/a".parse().unwrap(), RECURSIVE)
        .await
        .unwrap();
    assert_eq!(pool.node(1).sweep(GRACE).await.unwrap(), 0);
    pool.kill(1).await;
    pool.restart(1).await;
    eventually("it is let go of", || async {
        pool.node(1).sweep(GRACE).await.is_ok_and(|stripes| stripes > 0)
    })
    .await;
    pool.health("its room is free", |health| health.stripes() == 0).await;
    assert!(bring_back(pool.node(0), "/a", None).await.is_err());
}

/// One brings a file back while the other, which does not hear of it, lets go of it: the file is there, and nothing of it is freed.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_brings_back_and_another_lets_go_of_is_in_use() {
    let mut pool = Pool::of(2, GRACE).await;
    let content = bytes(6, 1_000_000);
    pool.put(0, "/a", &content).await;
    pool.node(0)
        .private()
        .remove(&"/a".parse().unwrap(), RECURSIVE)
        .await
        .unwrap();
    eventually("both know it", || async { trash(pool.node(1), "/").await.len() == 1 }).await;
    let addresses = [pool.address(0), pool.address(1)];
    pool.kill(1).await;
    bring_back(pool.node(0), "/a", None).await.unwrap();
    pool.kill(0).await;
    pool.restart_at(1, addresses[1].clone()).await;
    pool.node(1).private().empty_trash(&"/".parse().unwrap()).await.unwrap();
    pool.restart_at(0, addresses[0].clone()).await;
    pool.all_see_each_other().await;
    pool.holds(1, "/a", &content).await;
    pool.health("it is whole", |health| {
        health.worst() == Some(1) && health.stripes() > 0
    })
    .await;
    pool.holds(0, "/a", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_at_once_is_asked_about_before_anything_is_done() {
    let pool = Pool::of(1, GRACE).await;
    let node = pool.node(0);
    put_many(node, "/many", 100, "x").await.unwrap();
    put_many(node, "/few", 20, "x").await.unwrap();
    let held = node.private().remove(&"/many".parse().unwrap(), RECURSIVE).await;
    let Err(NodeError::Mass(mass)) = held else {
        panic!("{held:?}")
    };
    assert_eq!((mass.planned, mass.of, mass.lately), (100, 120, 0));
    assert_eq!(count(node, "/many").await, 100);
    // Many small removals add up.
    let mut removed = 0;
    let held = loop {
        let path = format!("/many/{removed}").parse().unwrap();
        match node.private().remove(&path, RECURSIVE).await {
            Ok(_) => removed += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(held, NodeError::Mass(mass) if mass.lately == 60 && mass.of == 120),
        "{held:?}"
    );
    assert_eq!(removed, 60);
    // A move is none.
    node.private()
        .rename(&"/many".parse().unwrap(), &"/moved".parse().unwrap())
        .await
        .unwrap();
    let confirmed = RemoveOptions {
        confirmed: true,
        ..RECURSIVE
    };
    node.private()
        .remove(&"/moved".parse().unwrap(), confirmed)
        .await
        .unwrap();
    // With one machine there is nobody else to ask.
    let status = node.status().await.unwrap();
    assert_eq!((status.masses.len(), status.trash.files), (0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn overwriting_much_stops_where_it_becomes_too_much() {
    let pool = Pool::of(1, GRACE).await;
    let node = pool.node(0);
    put_many(node, "/many", 200, "good").await.unwrap();
    // The same again is no change, however it is stored; another of the same length and time is one.
    put_many(node, "/many", 200, "good").await.unwrap();
    for len in [9_000, 3_000_000, 25_000_000] {
        let path = format!("/large/{len}");
        pool.put(0, &path, &bytes(1, len)).await;
        pool.put(0, &path, &bytes(1, len)).await;
        assert_eq!(trash(node, &path).await.len(), 0, "{len}");
        pool.put(0, &path, &bytes(2, len)).await;
        assert_eq!(trash(node, &path).await.len(), 1, "{len}");
        remove_now(node, "/large").await;
    }
    assert_eq!(node.status().await.unwrap().trash.files, 0);
    let held = put_many(node, "/many", 200, "encrypted").await;
    assert!(matches!(held, Err(NodeError::Mass(_))), "{held:?}");
    let overwritten = trash(node, "/").await.len();
    assert!((90..=100).contains(&overwritten), "{overwritten}");
    let since = node.status().await.unwrap();
    assert_eq!(since.masses, []);
    let before = trash(node, "/")
        .await
        .iter()
        .map(|version| version.removed)
        .min()
        .unwrap();
    let before = Timestamp::from_millis(before.as_millis() - 1);
    let back = bring_back(node, "/many", Some(before)).await.unwrap();
    assert_eq!(back.files as usize, overwritten);
    pool.holds(0, "/many/0", b"good").await;
}

/// Somebody, or something, on one machine said yes to removing nearly all. The others ask, and nothing is freed until somebody answers.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_machine_removed_is_asked_about_and_stays() {
    for accepts in [false, true] {
        let pool = Pool::keeping(2, GRACE, Duration::from_secs(1)).await;
        put_many(pool.node(0), "/many", 110, "x").await.unwrap();
        let confirmed = RemoveOptions {
            confirmed: true,
            ..RECURSIVE
        };
        pool.node(0)
            .private()
            .remove(&"/many".parse().unwrap(), confirmed)
            .await
            .unwrap();
        eventually("the other asks", || async {
            !pool.node(1).status().await.unwrap().masses.is_empty()
        })
        .await;
        let status = pool.node(1).status().await.unwrap();
        assert_eq!((status.masses[0].mass.replaced, status.masses[0].mass.of), (110, 110));
        let asks = |what: &str| status.advice.iter().any(|advice| advice.contains(what));
        assert!(
            asks("potluck restore home:/ --since 2") && asks("potluck trash --accept"),
            "{:?}",
            status.advice
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        for node in pool.running() {
            node.sweep(GRACE).await.unwrap();
            assert_eq!(node.status().await.unwrap().trash.files, 110);
        }
        if accepts {
            pool.node(1).accept_losses().await.unwrap();
            eventually("it is let go of", || async {
                pool.node(0).sweep(GRACE).await.unwrap();
                pool.node(0).status().await.unwrap().trash.files == 0
            })
            .await;
        } else {
            let before = Timestamp::from_millis(status.masses[0].mass.since.as_millis() - 1);
            let since = RestoreOptions {
                since: Some(before),
                ..RestoreOptions::default()
            };
            let back = pool
                .node(1)
                .private()
                .bring_back(&"/".parse().unwrap(), since)
                .await
                .unwrap();
            assert_eq!(back.files, 110);
            eventually("nobody asks any more", || async {
                let status = pool.node(0).status().await.unwrap();
                status.masses.is_empty() && count(pool.node(0), "/many").await == 110
            })
            .await;
        }
    }
}

fn copy(from: &FilePath, to: &FilePath) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn image(of: &TempDir) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    copy(of.path(), image.path());
    image
}

/// Three machines; the first has an older image of itself, and has since written, overwritten and removed.
async fn with_an_older_image() -> (Pool, TempDir) {
    let mut pool = Pool::of(3, GRACE).await;
    pool.put(0, "/kept", b"kept").await;
    pool.put(0, "/edited", b"before").await;
    pool.put(0, "/gone", &bytes(7, 300_000)).await;
    pool.kill(0).await;
    let image = image(&pool.members[0].home);
    pool.restart(0).await;
    pool.all_see_each_other().await;
    pool.put(0, "/edited", b"after").await;
    pool.put(0, "/later", &bytes(8, 300_000)).await;
    remove_now(pool.node(0), "/gone").await;
    pool.kill(0).await;
    (pool, image)
}

async fn all_have(pool: &Pool, path: &str, content: &[u8]) {
    for i in 0..pool.members.len() {
        pool.holds(i, path, content).await;
    }
}

async fn nobody_has(pool: &Pool, path: &str) {
    for node in pool.running() {
        assert!(node.private().stat(&path.parse().unwrap()).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_restored_from_a_backup_goes_on_where_it_was() {
    let (mut pool, image) = with_an_older_image().await;
    pool.members[0].home = image;
    pool.restart(0).await;
    // At once: it does not know yet what it wrote before.
    pool.put(0, "/new", b"new").await;
    for (path, content) in [
        ("/kept", &b"kept"[..]),
        ("/edited", b"after"),
        ("/later", &bytes(8, 300_000)),
        ("/new", b"new"),
    ] {
        all_have(&pool, path, content).await;
    }
    nobody_has(&pool, "/gone").await;
    assert_eq!(conflicts(pool.node(1)).await, 0);
}

/// How many names conflict.
async fn conflicts(node: &Node) -> usize {
    let mut conflicts = node.private().conflicts(&"/".parse().unwrap());
    conflicts.next().await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_machine_wrote_alone_is_kept_and_undoes_nothing() {
    let (mut pool, image) = with_an_older_image().await;
    let addresses = [pool.address(1), pool.address(2)];
    pool.kill(1).await;
    pool.kill(2).await;
    pool.members[0].home = image;
    pool.restart(0).await;
    pool.put(0, "/alone", &bytes(9, 400_000)).await;
    pool.put(0, "/edited", b"alone").await;
    pool.put(0, "/alone-too", b"1").await;
    pool.put(0, "/alone-too", b"2").await;
    pool.node(0)
        .private()
        .rename(&"/kept".parse().unwrap(), &"/moved".parse().unwrap())
        .await
        .unwrap();
    pool.restart_at(1, addresses[0].clone()).await;
    pool.restart_at(2, addresses[1].clone()).await;
    pool.all_see_each_other().await;
    eventually("it has said again what it wrote", || async {
        conflicts(pool.node(0)).await == 1
    })
    .await;
    for (path, content) in [
        ("/alone", &bytes(9, 400_000)[..]),
        ("/alone-too", b"2"),
        ("/later", &bytes(8, 300_000)),
        ("/moved", b"kept"),
    ] {
        all_have(&pool, path, content).await;
    }
    for i in 0..3 {
        let mut found = pool.node(i).private().conflicts(&"/".parse().unwrap());
        let found = found.next().await.unwrap();
        let paths: Vec<String> = found.iter().map(|conflict| conflict.path.to_string()).collect();
        assert_eq!(paths, ["/edited"], "both versions are there");
    }
    nobody_has(&pool, "/gone").await;
    nobody_has(&pool, "/kept").await;
    // It goes on, also after another start.
    pool.put(0, "/after", b"after").await;
    pool.kill(0).await;
    pool.restart(0).await;
    pool.put(0, "/after", b"more").await;
    all_have(&pool, "/after", b"more").await;
}

/// Another machine was off while it wrote the newer entries, and hears only of what it writes beside them.
#[tokio::test(flavor = "multi_thread")]
async fn who_heard_only_what_a_restored_machine_gave_up_is_told_and_can_follow_it() {
    let mut pool = Pool::of(3, GRACE).await;
    pool.put(0, "/kept", b"kept").await;
    pool.holds(2, "/kept", b"kept").await;
    pool.kill(0).await;
    let image = image(&pool.members[0].home);
    pool.restart(0).await;
    pool.all_see_each_other().await;
    let addresses = [pool.address(1), pool.address(2)];
    pool.kill(2).await;
    pool.put(0, "/later", b"later").await;
    pool.put(0, "/kept", b"edited").await;
    pool.holds(1, "/kept", b"edited").await;
    pool.kill(0).await;
    pool.kill(1).await;
    pool.members[0].home = image;
    pool.restart(0).await;
    pool.restart_at(2, addresses[1].clone()).await;
    pool.all_see_each_other().await;
    pool.put(0, "/alone", b"alone").await;
    pool.put(0, "/alone-too", b"alone, too").await;
    pool.holds(2, "/alone-too", b"alone, too").await;

    pool.restart_at(1, addresses[0].clone()).await;
    pool.all_see_each_other().await;
    let restored = pool.node(0).identity().node;
    pool.holds(0, "/later", b"later").await;
    pool.holds(1, "/alone", b"alone").await;
    pool.put(0, "/after", b"after").await;
    eventually("it is told", || async {
        pool.node(2).status().await.unwrap().parted == [restored]
    })
    .await;
    let advice = pool.node(2).status().await.unwrap().advice;
    assert!(
        advice.iter().any(|advice| advice.contains("potluck device follow")),
        "{advice:?}"
    );
    assert_eq!(pool.node(1).status().await.unwrap().parted, []);
    nobody_else_is_followed(pool.node(1), restored).await;
    assert!(pool.node(2).private().stat(&"/after".parse().unwrap()).await.is_err());

    let followed = pool.node(2).follow(restored).await.unwrap();
    assert!(followed.spaces == 1 && followed.dropped >= 2, "{followed:?}");
    assert_eq!(pool.node(2).status().await.unwrap().parted, []);
    nobody_else_is_followed(pool.node(2), restored).await;
    pool.put(2, "/other", b"other").await;
    for (path, content) in [
        ("/kept", &b"edited"[..]),
        ("/later", b"later"),
        ("/alone", b"alone"),
        ("/alone-too", b"alone, too"),
        ("/after", b"after"),
        ("/other", b"other"),
    ] {
        all_have(&pool, path, content).await;
    }
    eventually("all have the same history", || async {
        let verified = pool.node(2).verify(&"home".parse().unwrap()).await.unwrap();
        verified.problems_count == 0 && verified.compared.iter().all(|compared| compared.has == Has::Same)
    })
    .await;
}

async fn nobody_else_is_followed(node: &Node, other: NodeId) {
    let followed = node.follow(other).await.unwrap();
    assert_eq!((followed.spaces, followed.dropped), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_machines_with_one_key_the_second_is_told_and_both_keep_what_they_wrote() {
    let mut pool = Pool::of(3, GRACE).await;
    pool.put(0, "/before", b"before").await;
    pool.kill(0).await;
    let image = image(&pool.members[0].home);
    pool.restart(0).await;
    pool.all_see_each_other().await;
    let second = Node::start(pool.config(&image)).await.unwrap();
    pool.put(0, "/first", b"first").await;
    put(&second, "/second", b"second").await.unwrap();
    within("the second is told", second.gives_way()).await;
    second.stop().await;
    assert!(
        tokio::time::timeout(Duration::from_secs(1), pool.node(0).gives_way())
            .await
            .is_err()
    );
    for (path, content) in [
        ("/before", &b"before"[..]),
        ("/first", b"first"),
        ("/second", b"second"),
    ] {
        pool.holds(1, path, content).await;
        pool.holds(0, path, content).await;
    }
    pool.put(0, "/after", b"after").await;
    all_have(&pool, "/after", b"after").await;
}
