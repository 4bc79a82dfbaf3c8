//! Spaces whose data may be in some regions only: nothing of it is put elsewhere, what is elsewhere is brought there, and what cannot be there is refused.

use crate::common::{Pool, bytes, eventually, name, put_into, read, read_when_named};
use potluck_node::{Node, NodeError, Setting, Space, SpaceOptions, StripeWork};
use potluck_types::{Regions, SpaceId};
use std::time::Duration;

/// Nobody is waited for.
const GRACE: Duration = Duration::from_millis(200);

fn regions(names: &[&str]) -> Regions {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn in_regions(names: &[&str]) -> SpaceOptions {
    SpaceOptions {
        regions: Setting::To(regions(names)),
        ..SpaceOptions::default()
    }
}

/// The first stands nowhere; so many stand in `eu`, so many in `us`.
async fn pool(eu: usize, us: usize) -> Pool {
    let mut pool = Pool::of(1, GRACE).await;
    for region in std::iter::repeat_n("eu", eu).chain(std::iter::repeat_n("us", us)) {
        pool.add_in(Some(region)).await;
    }
    pool.all_see_each_other().await;
    pool
}

async fn shards(node: &Node, space: SpaceId) -> usize {
    let held = node.held(None, 10_000).await.unwrap();
    held.iter().filter(|held| held.space == space).count()
}

/// Shards of a space on each machine.
async fn everywhere(pool: &Pool, space: SpaceId) -> Vec<usize> {
    let mut shards_on = Vec::new();
    for node in pool.running() {
        shards_on.push(shards(node, space).await);
    }
    shards_on
}

async fn put_some(space: &Space, from: u64) {
    for i in from..from + 4 {
        put_into(space, &format!("/file-{i}"), &bytes(i, 400_000))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_on_machines_of_the_regions_alone() {
    let mut pool = pool(3, 2).await;
    let space = pool
        .node(0)
        .create_space_with(name("photos"), in_regions(&["eu"]))
        .await
        .unwrap();
    assert_eq!(
        (space.regions.clone(), space.machines_there),
        (Some(regions(&["eu"])), Some(3))
    );
    let (id, photos) = (space.id, pool.node(0).space(&name("photos")).unwrap());
    put_some(&photos, 0).await;
    // As much as three domains can give.
    assert_eq!(photos.stat(&"/file-0".parse().unwrap()).await.unwrap().survives, 1);
    let on = everywhere(&pool, id).await;
    assert!(
        on[0] == 0 && on[4..] == [0, 0] && on[1..4].iter().all(|shards| *shards > 0),
        "{on:?}"
    );
    // The private space goes everywhere.
    put_into(&pool.node(0).private(), "/usual", &bytes(9, 400_000))
        .await
        .unwrap();
    let home = pool.node(0).private().id();
    assert!(
        everywhere(&pool, home)
            .await
            .iter()
            .filter(|shards| **shards > 0)
            .count()
            > 3
    );

    // One of the three is gone: what it had is not made anew elsewhere, and that is said.
    pool.kill(3).await;
    let explained = |photos: Space| async move {
        let path = "/".parse().unwrap();
        photos
            .explain(&path, potluck_node::ExplainOptions::default())
            .await
            .unwrap()
    };
    let is_no_region = |work: &StripeWork| matches!(work, StripeWork::Waiting { cause, .. } if cause == "no-region");
    eventually("it waits for a machine of the region", || async {
        let explanation = explained(photos.clone()).await;
        explanation.work.iter().any(|(work, _)| is_no_region(work)) && explanation.elsewhere == 0
    })
    .await;
    let on = everywhere(&pool, id).await;
    assert!(on[0] == 0 && on[3..] == [0, 0], "{on:?}");
    put_some(&photos, 4).await;
    // Another one comes: all is whole again.
    pool.add_in(Some("eu")).await;
    eventually("all is whole", || async {
        let explanation = explained(photos.clone()).await;
        let survives = explanation.survives.keys().min().copied();
        explanation.short_files == 0 && survives == Some(1) && explanation.elsewhere == 0
    })
    .await;
    for i in 0..8 {
        assert!(read(&photos, &format!("/file-{i}")).await.unwrap() == bytes(i, 400_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_elsewhere_is_brought_where_it_may_be() {
    let pool = pool(4, 1).await;
    let id = pool.node(0).create_space(name("photos")).await.unwrap().id;
    let photos = pool.node(0).space(&name("photos")).unwrap();
    put_some(&photos, 0).await;
    let on = everywhere(&pool, id).await;
    assert!(on[0] > 0 || on[5] > 0, "{on:?}");
    let set = pool
        .node(2)
        .set_space(&name("photos"), in_regions(&["eu"]))
        .await
        .unwrap();
    assert_eq!(set.machines_there, Some(4));
    eventually("nothing is elsewhere", || async {
        let on = everywhere(&pool, id).await;
        let health = pool.node(0).status().await.unwrap().health;
        on[0] == 0 && on[5] == 0 && on[1..5].iter().all(|shards| *shards > 0) && health.waiting.is_empty()
    })
    .await;
    let stat = photos.stat(&"/file-1".parse().unwrap()).await.unwrap();
    assert!(stat.survives >= 1);
    for i in 0..4 {
        assert!(read(&photos, &format!("/file-{i}")).await.unwrap() == bytes(i, 400_000));
    }
    // Everywhere again.
    let usual = SpaceOptions {
        regions: Setting::Usual,
        ..SpaceOptions::default()
    };
    assert_eq!(
        pool.node(0).set_space(&name("photos"), usual).await.unwrap().regions,
        None
    );
    eventually("it is spread", || async {
        let on = everywhere(&pool, id).await;
        on[0] > 0 || on[5] > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_nowhere_is_refused_and_says_why() {
    let mut pool = pool(1, 1).await;
    // A name with a fault in it.
    let wrong = pool
        .node(0)
        .create_space_with(name("photos"), in_regions(&["eruope"]))
        .await;
    let known = regions(&["eu", "us"]);
    assert!(matches!(wrong, Err(NodeError::NoRegion { known: k, is_away: false, .. }) if k == known));
    assert!(pool.node(0).space(&name("photos")).is_err());
    let many: Vec<String> = (0..17).map(|i| format!("r{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let wrong = pool.node(0).create_space_with(name("photos"), in_regions(&many)).await;
    assert!(matches!(wrong, Err(NodeError::TooManyRegions)));

    pool.node(0)
        .create_space_with(name("photos"), in_regions(&["us"]))
        .await
        .unwrap();
    let photos = pool.node(0).space(&name("photos")).unwrap();
    put_into(&photos, "/before", &bytes(1, 300_000)).await.unwrap();
    pool.kill(2).await;
    pool.are_away(0, 1).await;
    let refused = put_into(&photos, "/after", &bytes(2, 300_000)).await;
    assert!(
        matches!(refused, Err(NodeError::NoRegion { is_away: true, .. })),
        "{refused:?}"
    );
    assert!(photos.stat(&"/after".parse().unwrap()).await.is_err());
    // Two regions: one of them is there.
    pool.node(0)
        .set_space(&name("photos"), in_regions(&["eu", "us"]))
        .await
        .unwrap();
    put_into(&photos, "/after", &bytes(2, 300_000)).await.unwrap();
    let on = everywhere(&pool, photos.id()).await;
    assert!(on[0] == 0 && on[1] > 0, "{on:?}");
}

/// Others keep the log of a space, too: not where it may not be, unless they read it.
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_kept_where_the_space_may_be() {
    let pool = pool(1, 0).await;
    let mut others = Vec::new();
    for region in ["eu", "us", "us"] {
        others.push(pool.guest_in(Some(region)).await);
    }
    for (node, _) in &others {
        crate::common::sees(node, 5).await;
    }
    let mut ids = Vec::new();
    for i in 0..6 {
        let called = format!("space-{i}");
        ids.push(pool.node(0).create_space(name(&called)).await.unwrap().id);
        put_into(&pool.node(0).space(&name(&called)).unwrap(), "/note", b"a few words")
            .await
            .unwrap();
    }
    let keeps = |node: usize, id: SpaceId| {
        let node = &others[node].0;
        async move { node.keeps_log(id).await.unwrap() }
    };
    let mut abroad = Vec::new();
    for id in &ids {
        if keeps(1, *id).await || keeps(2, *id).await {
            abroad.push(*id);
        }
    }
    assert!(!abroad.is_empty(), "some are kept by the machines of other people");
    for i in 0..6 {
        let called = format!("space-{i}");
        let asked = pool.node(0).set_space(&name(&called), in_regions(&["eu"])).await;
        assert!(matches!(
            asked,
            Err(NodeError::LessSafe {
                before: 2,
                after: 1,
                ..
            })
        ));
        let sure = SpaceOptions {
            confirmed: true,
            ..in_regions(&["eu"])
        };
        pool.node(0).set_space(&name(&called), sure).await.unwrap();
    }
    for id in ids {
        eventually("it is kept where it may be", || async {
            !keeps(1, id).await && !keeps(2, id).await && keeps(0, id).await
        })
        .await;
    }
    // What is written then does not go there, and is read by the person's own machine.
    let space = pool.node(0).space(&name("space-3")).unwrap();
    put_into(&space, "/later", b"a few more").await.unwrap();
    eventually("the other machine has it", || async {
        pool.node(1).space(&name("space-3")).is_ok()
    })
    .await;
    assert_eq!(
        read_when_named(&pool.node(1).space(&name("space-3")).unwrap(), "/later").await,
        b"a few more"
    );
    assert!(!keeps(1, space.id()).await && !keeps(2, space.id()).await);
}
