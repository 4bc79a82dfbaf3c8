//! Spaces beside the private one: founded, named, removed and brought back, on all machines of a person and on nobody else's.

use crate::common::{Pool, WRITE, bytes, config, eventually, name, put_into, read, read_when_named, sees};
use potluck_node::{Node, NodeError, Path, RemoveOptions, RestoreOptions, Setting, Space, SpaceInfo, SpaceOptions};
use potluck_types::ByteSize;
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(3600);

/// A space, once its keys are here.
async fn arrived(node: &Node, called: &str) -> Space {
    eventually("the space arrives", || async { node.space(&name(called)).is_ok() }).await;
    node.space(&name(called)).unwrap()
}

async fn info(node: &Node, called: &str) -> Option<SpaceInfo> {
    let spaces = node.spaces(true).await.unwrap();
    spaces.into_iter().find(|space| space.name == name(called))
}

async fn shards_of(node: &Node, space: &SpaceInfo) -> usize {
    let held = node.held(None, 10_000).await.unwrap();
    held.iter().filter(|held| held.space == space.id).count()
}

fn sure(now: bool) -> RemoveOptions {
    RemoveOptions {
        recursive: true,
        now,
        confirmed: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_is_on_all_machines_of_its_person_and_outlasts_them() {
    let mut pool = Pool::of(3, GRACE).await;
    let founded = pool.node(0).create_space(name("photos")).await.unwrap();
    assert!(founded.is_mine && founded.is_here && founded.files == 0);
    let (large, small) = (bytes(1, 3_000_000), bytes(2, 300));
    let first = pool.node(0).space(&name("photos")).unwrap();
    put_into(&first, "/2026/large", &large).await.unwrap();
    put_into(&first, "/small", &small).await.unwrap();
    // The same path in the private space is another file.
    assert!(matches!(
        read(&pool.node(0).private(), "/small").await,
        Err(NodeError::Tree(_))
    ));
    for i in 1..3 {
        let space = arrived(pool.node(i), "photos").await;
        assert_eq!(space.id(), founded.id);
        assert!(read_when_named(&space, "/2026/large").await == large);
        assert!(read_when_named(&space, "/small").await == small);
    }
    // Another machine writes, the first is gone for good, and a restart changes nothing.
    let second = arrived(pool.node(1), "photos").await;
    put_into(&second, "/written-elsewhere", &small).await.unwrap();
    assert!(read_when_named(&first, "/written-elsewhere").await == small);
    drop((first, second));
    let addresses = [pool.address(1), pool.address(2)];
    for i in 0..3 {
        pool.kill(i).await;
    }
    for (i, address) in (1..3).zip(addresses) {
        pool.restart_at(i, address).await;
    }
    for i in 1..3 {
        eventually("the other is there", || async {
            let nodes = pool.node(i).status().await.unwrap().nodes;
            nodes.iter().filter(|node| node.away_since.is_some()).count() == 1
        })
        .await;
        let space = arrived(pool.node(i), "photos").await;
        assert!(read_when_named(&space, "/2026/large").await == large);
        assert!(read_when_named(&space, "/written-elsewhere").await == small);
        assert_eq!(info(pool.node(i), "photos").await.unwrap().files, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_space_holds_on_all_machines() {
    const DAY: Duration = Duration::from_secs(86_400);
    let pool = Pool::of(3, GRACE).await;
    let options = |survive, retention| SpaceOptions {
        regions: Setting::Unchanged,
        confirmed: false,
        survive,
        retention,
        quota: Setting::Unchanged,
    };
    let wished = options(Setting::To(9), Setting::To(2 * DAY));
    let founded = pool
        .node(0)
        .create_space_with(name("photos"), wished.clone())
        .await
        .unwrap();
    assert_eq!((founded.survive, founded.retention), (Some(9), Some(2 * DAY)));
    let space = arrived(pool.node(1), "photos").await;
    eventually("the other machine knows what holds", || async {
        info(pool.node(1), "photos").await.unwrap().survive == Some(9)
    })
    .await;
    // As much as three machines can give; a put that says otherwise is what it says.
    put_into(&space, "/file", &bytes(1, 300_000)).await.unwrap();
    let stat = |at: &'static str| {
        let space = space.clone();
        async move { space.stat(&at.parse().unwrap()).await.unwrap() }
    };
    assert_eq!(stat("/file").await.survives, 2);
    put_into(&pool.node(1).private(), "/usual", &bytes(2, 300_000))
        .await
        .unwrap();
    let usual = pool.node(1).private().stat(&"/usual".parse().unwrap()).await.unwrap();
    assert_eq!(usual.survives, 1);

    put_into(&space, "/file", &bytes(3, 300_000)).await.unwrap();
    let trash = space.trash(&"/".parse().unwrap()).await.unwrap().next().await.unwrap();
    assert_eq!(trash.len(), 1);
    assert_eq!(trash[0].until.since(trash[0].removed), 2 * DAY);

    // What is said anew holds from then on; what is not said stays.
    let no_trash = options(Setting::Unchanged, Setting::To(Duration::ZERO));
    let set = pool.node(1).set_space(&name("photos"), no_trash).await.unwrap();
    assert_eq!((set.survive, set.retention), (Some(9), Some(Duration::ZERO)));
    put_into(&space, "/file", &bytes(4, 300_000)).await.unwrap();
    let trash = space.trash(&"/".parse().unwrap()).await.unwrap().next().await.unwrap();
    assert_eq!(trash.len(), 1, "what was overwritten now is gone");
    let usual = options(Setting::Usual, Setting::Usual);
    let set = pool.node(1).set_space(&name("photos"), usual).await.unwrap();
    assert_eq!((set.survive, set.retention), (None, None));

    let is_refused = |done: Result<SpaceInfo, NodeError>| {
        matches!(done, Err(NodeError::SurvivesTooMany(19) | NodeError::KeptTooLong(365)))
    };
    for wrong in [
        options(Setting::To(20), Setting::Unchanged),
        options(Setting::Unchanged, Setting::To(366 * DAY)),
    ] {
        assert!(is_refused(pool.node(0).set_space(&name("photos"), wrong.clone()).await));
        assert!(is_refused(pool.node(0).create_space_with(name("other"), wrong).await));
    }
    assert!(info(pool.node(0), "other").await.is_none());
    // The private space, too.
    let home = potluck_types::SpaceName::home();
    let set = pool.node(0).set_space(&home, wished).await.unwrap();
    assert_eq!(set.survive, Some(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_given_once_changed_and_never_that_of_the_private_space() {
    let pool = Pool::of(2, GRACE).await;
    let founded = pool.node(0).create_space(name("photos")).await.unwrap();
    let taken = pool.node(1).create_space(name("photos")).await;
    assert!(matches!(taken, Err(NodeError::SpaceExists(_))), "{taken:?}");
    for called in ["home", "photos"] {
        let taken = pool.node(0).create_space(name(called)).await;
        assert!(matches!(taken, Err(NodeError::SpaceExists(_))), "{taken:?}");
    }
    pool.node(1)
        .rename_space(&name("photos"), &name("pictures"))
        .await
        .unwrap();
    assert_eq!(pool.node(1).space(&name("pictures")).unwrap().id(), founded.id);
    assert!(matches!(
        pool.node(1).space(&name("photos")),
        Err(NodeError::NoSuchSpace(_))
    ));
    assert_eq!(arrived(pool.node(0), "pictures").await.id(), founded.id);
    let home = pool.node(0).remove_space(&name("home"), sure(true)).await;
    assert!(matches!(home, Err(NodeError::SpaceStays(_))), "{home:?}");
    let renamed = pool.node(0).rename_space(&name("pictures"), &name("home")).await;
    assert!(matches!(renamed, Err(NodeError::SpaceExists(_))), "{renamed:?}");
    let none = pool.node(0).rename_space(&name("none"), &name("other")).await;
    assert!(matches!(none, Err(NodeError::NoSuchSpace(_))), "{none:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_that_was_removed_comes_back_whole_and_one_that_goes_now_leaves_nothing() {
    let pool = Pool::of(3, GRACE).await;
    let founded = pool.node(0).create_space(name("photos")).await.unwrap();
    let content = bytes(3, 2_000_000);
    let space = pool.node(0).space(&name("photos")).unwrap();
    put_into(&space, "/a/b", &content).await.unwrap();
    assert!(pool.node(0).make_checkpoint(&name("photos")).await.unwrap());
    pool.node(0)
        .private()
        .list(&"/".parse().unwrap(), None, 10)
        .await
        .unwrap();
    let asked = pool
        .node(0)
        .remove_space(&name("photos"), RemoveOptions::default())
        .await;
    assert!(matches!(asked, Err(NodeError::Mass(_))), "{asked:?}");
    let removal = pool.node(0).remove_space(&name("photos"), sure(false)).await.unwrap();
    assert_eq!((removal.files, removal.until.is_some()), (1, true));
    for i in 0..3 {
        eventually("it is gone everywhere", || async {
            pool.node(i).space(&name("photos")).is_err()
        })
        .await;
        assert!(info(pool.node(i), "photos").await.unwrap().until.is_some());
    }
    // Its data stays meanwhile, whoever sweeps.
    pool.node(1).sweep(Duration::ZERO).await.unwrap();
    let back = pool.node(1).restore_space(&name("photos")).await.unwrap();
    assert_eq!((back.id, back.files, back.until), (founded.id, 1, None));
    let space = arrived(pool.node(2), "photos").await;
    assert!(read_when_named(&space, "/a/b").await == content);
    pool.node(2).remove_space(&name("photos"), sure(true)).await.unwrap();
    for i in 0..3 {
        eventually("its shards are free", || async {
            shards_of(pool.node(i), &founded).await == 0
        })
        .await;
        assert!(info(pool.node(i), "photos").await.is_none());
    }
    let none = pool.node(2).restore_space(&name("photos")).await;
    assert!(matches!(none, Err(NodeError::NoSuchSpace(_))), "{none:?}");
}

/// Two machines give a space the same name apart, so it has that name twice, and twice in the trash when it is removed. Brought back, it is in use, however long ago that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_space_that_was_brought_back_outlasts_all_the_names_that_it_had() {
    let mut pool = Pool::keeping(2, GRACE, Duration::from_millis(1)).await;
    let founded = pool.node(0).create_space(name("photos")).await.unwrap();
    let content = bytes(6, 500_000);
    put_into(&pool.node(0).space(&name("photos")).unwrap(), "/file", &content)
        .await
        .unwrap();
    arrived(pool.node(1), "photos").await;
    let addresses = [pool.address(0), pool.address(1)];
    for i in [0, 1] {
        pool.kill(1 - i).await;
        if i == 1 {
            pool.restart_at(1, addresses[1].clone()).await;
        }
        pool.node(i).rename_space(&name("photos"), &name("pics")).await.unwrap();
    }
    pool.restart_at(0, addresses[0].clone()).await;
    pool.all_see_each_other().await;
    for i in [0, 1] {
        eventually("both have heard of both names", || async {
            pool.node(i).sweep(Duration::from_secs(3600)).await.is_ok() && pool.node(i).space(&name("pics")).is_ok()
        })
        .await;
    }
    pool.node(0).remove_space(&name("pics"), sure(false)).await.unwrap();
    let back = pool.node(0).restore_space(&name("pics")).await.unwrap();
    assert_eq!(back.id, founded.id);
    for i in [0, 1] {
        pool.node(i).sweep(Duration::from_secs(3600)).await.unwrap();
        let space = arrived(pool.node(i), "pics").await;
        assert!(read_when_named(&space, "/file").await == content);
    }
    assert_eq!(info(pool.node(0), "pics").await.unwrap().until, None);
}

/// What is removed is kept for no time at all, so the next sweep ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_space_whose_time_in_the_trash_is_over_is_let_go_of_with_all_that_is_in_it() {
    let pool = Pool::keeping(2, GRACE, Duration::from_millis(1)).await;
    let founded = pool.node(0).create_space(name("photos")).await.unwrap();
    let space = pool.node(0).space(&name("photos")).unwrap();
    put_into(&space, "/file", &bytes(4, 500_000)).await.unwrap();
    pool.node(0).remove_space(&name("photos"), sure(false)).await.unwrap();
    eventually("it is let go of", || async {
        pool.node(0).sweep(Duration::from_secs(3600)).await.unwrap();
        info(pool.node(0), "photos").await.is_none()
    })
    .await;
    for i in 0..2 {
        eventually("its shards are free", || async {
            shards_of(pool.node(i), &founded).await == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_keep_a_space_without_seeing_it_and_a_recovery_kit_brings_it_back() {
    let mut pool = Pool::of(1, GRACE).await;
    let friends = [pool.guest().await, pool.guest().await];
    sees(pool.node(0), 3).await;
    let founded = pool.node(0).create_space(name("photos")).await.unwrap();
    let content = bytes(5, 1_500_000);
    put_into(&pool.node(0).space(&name("photos")).unwrap(), "/deep/file", &content)
        .await
        .unwrap();
    for (friend, _) in &friends {
        assert!(info(friend, "photos").await.is_none());
        assert!(matches!(friend.space(&name("photos")), Err(NodeError::NoSuchSpace(_))));
        assert!(shards_of(friend, &founded).await > 0);
        // Theirs may be called the same.
        friend.create_space(name("photos")).await.unwrap();
        let theirs = friend.space(&name("photos")).unwrap();
        assert_ne!(theirs.id(), founded.id);
        assert!(read(&theirs, "/deep/file").await.is_err());
    }
    let kit = pool.node(0).kit().await.unwrap();
    pool.kill(0).await;
    let home = tempfile::tempdir().unwrap();
    let back = Node::restore(config(&home, GRACE), &kit).await.unwrap();
    let space = arrived(&back, "photos").await;
    assert_eq!(space.id(), founded.id);
    assert!(read_when_named(&space, "/deep/file").await == content);
    put_into(&space, "/after", &content).await.unwrap();
    for (friend, _) in friends {
        friend.stop().await;
    }
    back.stop().await;
}

/// A space holds what its owner says, for whoever writes to it; what makes it less is always taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_space_holds_no_more_than_its_owner_says() {
    let pool = Pool::of(2, GRACE).await;
    let (bob, _home) = pool.guest().await;
    sees(&bob, 3).await;
    bob.call_me("bob".parse().unwrap()).await;
    let anna = pool.node(0);
    eventually("they hear of Bob", || async {
        anna.people().iter().any(|person| person.name.is_some())
    })
    .await;
    let (shared, at) = (name("shared"), |text: &str| text.parse::<Path>().unwrap());
    let options = |quota| SpaceOptions {
        quota: Setting::To(ByteSize(quota)),
        ..SpaceOptions::default()
    };
    anna.create_space_with(shared.clone(), options(3_000_000))
        .await
        .unwrap();
    anna.share(&shared, "bob", WRITE).await.unwrap();
    let annas = anna.space(&shared).unwrap();
    put_into(&annas, "/one", &bytes(1, 1_000_000)).await.unwrap();
    eventually("it is offered", || async { !bob.offers().await.unwrap().is_empty() }).await;
    bob.accept("shared", None).await.unwrap();
    let bobs = bob.space(&shared).unwrap();
    eventually("he sees it", || async { bobs.stat(&at("/one")).await.is_ok() }).await;
    // One that is too large is given up on the way, and many that are small together.
    let info = || async { anna.space_info(&shared).await.unwrap() };
    for space in [&annas, &bobs] {
        let large = put_into(space, "/large", &bytes(2, 2_500_000)).await;
        assert!(
            matches!(&large, Err(NodeError::OverQuota { quota, used, .. }) if (quota.0, used.0) == (3_000_000, 1_000_000)),
            "{large:?}"
        );
        assert!(space.stat(&at("/large")).await.is_err());
    }
    put_into(&bobs, "/two", &bytes(3, 1_500_000)).await.unwrap();
    assert_eq!(read_when_named(&annas, "/two").await.len(), 1_500_000);
    assert_eq!(
        (info().await.bytes, info().await.quota),
        (2_500_000, Some(ByteSize(3_000_000)))
    );
    let small = put_into(&annas, "/small", &bytes(4, 600_000)).await;
    assert!(matches!(small, Err(NodeError::OverQuota { .. })), "{small:?}");
    // What is removed counts while it can be brought back, and removing works.
    let gently = RemoveOptions::default();
    annas.remove(&at("/one"), gently).await.unwrap();
    assert_eq!((info().await.bytes, info().await.trash.bytes), (1_500_000, 1_000_000));
    let small = put_into(&annas, "/small", &bytes(4, 600_000)).await;
    assert!(matches!(small, Err(NodeError::OverQuota { kept, .. }) if kept.0 == 1_000_000));
    annas.bring_back(&at("/one"), RestoreOptions::default()).await.unwrap();
    annas
        .remove(&at("/one"), RemoveOptions { now: true, ..gently })
        .await
        .unwrap();
    put_into(&annas, "/small", &bytes(4, 600_000)).await.unwrap();
    // Less than there is: removing works, and nothing is added.
    anna.set_space(&shared, options(1_000)).await.unwrap();
    eventually("he hears of it", || async {
        bob.space_info(&shared).await.unwrap().quota == Some(ByteSize(1_000))
    })
    .await;
    let more = put_into(&bobs, "/more", b"more").await;
    assert!(matches!(more, Err(NodeError::OverQuota { .. })), "{more:?}");
    bobs.remove(&at("/two"), RemoveOptions { now: true, ..gently })
        .await
        .unwrap();
    bobs.rename(&at("/small"), &at("/renamed")).await.unwrap();
    // As much as one likes again.
    let usual = SpaceOptions {
        quota: Setting::Usual,
        ..SpaceOptions::default()
    };
    assert_eq!(anna.set_space(&shared, usual).await.unwrap().quota, None);
    put_into(&annas, "/large", &bytes(2, 2_500_000)).await.unwrap();
}
