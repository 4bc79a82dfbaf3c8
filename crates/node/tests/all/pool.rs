//! Whole nodes in one process, over real connections on loopback: what a pool promises, as scripts.

use crate::common::{Member, Pool, bytes, config, eventually, put, remove_now, sees, within};
use potluck_node::{
    FileMeta, HomeError, InviteOptions, JoinError, Node, NodeError, PutOptions, Refusal, ShardsError, StartError,
};
use potluck_types::{Clock, SystemClock, Timestamp};
use std::{collections::BTreeSet, time::Duration};

const GRACE: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn one_node_keeps_files_of_every_size_over_a_restart() {
    let mut pool = Pool::of(1, GRACE).await;
    let sizes = [0, 1, 4080, 4081, 65_536, 262_144, 262_145, 1_000_000, 5_000_000];
    for len in sizes {
        pool.put(0, &format!("/sizes/{len}"), &bytes(len as u64, len)).await;
    }
    pool.kill(0).await;
    pool.restart(0).await;
    for len in sizes {
        pool.holds(0, &format!("/sizes/{len}"), &bytes(len as u64, len)).await;
    }
    let listed = pool
        .node(0)
        .private()
        .list(&"/sizes".parse().unwrap(), None, 100)
        .await
        .unwrap();
    assert_eq!(listed.len(), sizes.len());
}

/// A newcomer is made known by gossip, also where all are behind one address, as in an office: gossip between strangers would take that for an attack.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_machines_behind_one_address_all_know_each_other() {
    let pool = Pool::of(16, GRACE).await;
    for node in pool.running() {
        assert_eq!(node.status().await.unwrap().nodes.len(), 16);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_those_of_the_file() {
    let pool = Pool::of(1, GRACE).await;
    let content = bytes(7, 3_000_000);
    pool.put(0, "/big", &content).await;
    for (from, to) in [
        (0, 1),
        (0, 100),
        (65_535, 65_537),
        (1_500_000, 1_500_000 + 16_384),
        (2_999_999, 9_000_000),
    ] {
        let range = pool
            .node(0)
            .private()
            .download(&"/big".parse().unwrap(), Some(from..to))
            .await
            .unwrap();
        let end = (to as usize).min(content.len());
        assert_eq!(range.len, end as u64 - from);
        assert!(range.read_to_end().await.unwrap() == content[from as usize..end]);
    }
    assert!(matches!(
        pool.node(0)
            .private()
            .download(&"/big".parse().unwrap(), Some(3_000_000..3_000_001))
            .await,
        Err(NodeError::Range { .. })
    ));
}

/// Six nodes, of which the first two are gone: the one that stored a large file and a small one, which are given too, and another.
async fn six_that_lose_two(grace: Duration) -> (Pool, Vec<u8>, Vec<u8>) {
    let mut pool = Pool::of(6, grace).await;
    let (large, small) = (bytes(1, 20_000_000), bytes(2, 10_000));
    let report = pool.put(0, "/docs/large", &large).await;
    assert_eq!((report.survives, report.degraded), (2, 0));
    pool.put(0, "/docs/small", &small).await;
    pool.health("all is reported and whole", |health| {
        health.stripes() > 10 && health.worst() == Some(2)
    })
    .await;
    pool.kill(0).await;
    pool.kill(1).await;
    (pool, large, small)
}

#[tokio::test(flavor = "multi_thread")]
async fn six_nodes_lose_two_and_then_one_more_and_every_byte_is_there() {
    let (mut pool, large, small) = six_that_lose_two(Duration::from_millis(500)).await;
    pool.holds(2, "/docs/large", &large).await;
    pool.holds(3, "/docs/small", &small).await;
    // Four domains are left for five shards: coded stripes can bear one more loss, and that there is no room for more is said.
    pool.health("what can be mended is mended", |health| {
        health.survives.keys().all(|losses| *losses >= 1)
            && health.waiting.get("no-domain") == Some(&health.endangered)
            && health.stripes() > 10
            && health.unreadable == 0
    })
    .await;
    // Each of two lost nodes held a fifth of what is stored at most: making it anew reads three shards for one.
    let health = pool.node(2).status().await.unwrap().health;
    assert!(health.repair_written < 20_000_000, "{health:?}");
    pool.kill(2).await;
    pool.holds(3, "/docs/large", &large).await;
    pool.holds(4, "/docs/small", &small).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn six_nodes_lose_two_are_coded_for_four_and_lose_two_more() {
    // So short that those away are soon not expected back.
    let (mut pool, large, small) = six_that_lose_two(Duration::from_millis(20)).await;
    pool.are_away(2, 2).await;
    pool.health("it survives as much as before", |health| {
        health.stripes() > 10 && health.worst() == Some(2) && health.endangered == 0
    })
    .await;
    pool.kill(2).await;
    pool.kill(3).await;
    pool.holds(4, "/docs/large", &large).await;
    pool.holds(5, "/docs/small", &small).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_returns_is_whole_again_without_repair() {
    let mut pool = Pool::of(4, GRACE).await;
    let content = bytes(3, 5_000_000);
    pool.put(0, "/file", &content).await;
    pool.health("whole", |health| health.stripes() > 2 && health.worst() == Some(2))
        .await;
    pool.kill(3).await;
    pool.holds(1, "/file", &content).await;
    pool.restart(3).await;
    pool.health("whole again", |health| {
        health.stripes() > 2 && health.worst() == Some(2) && health.repair_written == 0
    })
    .await;
    pool.holds(3, "/file", &content).await;
}

/// A put that found its content stored already said that it survives two losses because four machines were here, although only two had it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_put_says_of_content_that_was_there_already_is_true() {
    let mut pool = Pool::of(4, GRACE).await;
    pool.kill(2).await;
    pool.kill(3).await;
    pool.are_away(0, 2).await;
    let content = bytes(19, 20_000_000);
    assert!(pool.put(0, "/first", &content).await.survives < 2);
    pool.restart(2).await;
    pool.restart(3).await;
    pool.all_see_each_other().await;
    let again = pool.put(0, "/again", &content).await;
    assert_eq!(again.deduplicated, content.len() as u64);
    for holder in 0..again.survives {
        pool.kill(holder.into()).await;
    }
    pool.holds(3, "/again", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_frees_its_shards_everywhere() {
    let pool = Pool::of(3, GRACE).await;
    pool.put(0, "/a", &bytes(4, 3_000_000)).await;
    pool.put(0, "/b", &bytes(5, 100_000)).await;
    pool.health("reported", |health| health.stripes() > 2).await;
    pool.holds(1, "/a", &bytes(4, 3_000_000)).await;
    assert_eq!(remove_now(pool.node(1), "/a").await, 1);
    assert_eq!(remove_now(pool.node(0), "/b").await, 1);
    pool.health("all shards are gone", |health| health.stripes() == 0).await;
    eventually("the name is gone", || async {
        pool.node(2).private().stat(&"/a".parse().unwrap()).await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_held_survives_two_losses_once_there_are_enough() {
    let mut pool = Pool::of(1, Duration::from_secs(2)).await;
    let files: Vec<_> = [10, 9_000, 9_000, 200_000, 700_000, 9_000_000]
        .into_iter()
        .enumerate()
        .map(|(i, len)| (format!("/before/{i}"), bytes(i as u64, len)))
        .collect();
    for (path, content) in &files {
        assert_eq!(pool.put(0, path, content).await.survives, 0);
    }
    for _ in 1..5 {
        pool.add().await;
    }
    pool.all_see_each_other().await;
    pool.health("everything survives two losses", |health| {
        health.worst() == Some(2) && health.recoding == 0 && health.stripes() > 0
    })
    .await;
    // Each is one version, and no conflict.
    let listed = pool
        .node(1)
        .private()
        .list(&"/before".parse().unwrap(), None, 100)
        .await
        .unwrap();
    assert_eq!(listed.len(), files.len());
    assert!(listed.iter().all(|entry| entry.copy_of.is_none()));
    pool.kill(0).await;
    pool.kill(1).await;
    for (path, content) in &files {
        pool.holds(3, path, content).await;
    }
}

/// More of it than is fetched ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_coded_anew_while_it_is_read_is_read_to_its_end() {
    let mut pool = Pool::of(1, Duration::from_secs(2)).await;
    let content = bytes(1, 60_000_000);
    pool.put(0, "/file", &content).await;
    let before = pool.node(0).held(None, 1000).await.unwrap();
    let before: BTreeSet<_> = before.into_iter().map(|held| held.shard.stripe).collect();
    let path = "/file".parse().unwrap();
    let mut reading = pool.node(0).private().download(&path, None).await.unwrap();
    let mut read = reading.next().await.unwrap().unwrap().to_vec();
    for _ in 1..3 {
        pool.add().await;
    }
    pool.all_see_each_other().await;
    eventually("it lies elsewhere, and nothing is left where it was", || async {
        let held = pool.node(0).held(None, 1000).await.unwrap();
        !held.is_empty() && held.iter().all(|held| !before.contains(&held.shard.stripe))
    })
    .await;
    while let Some(bytes) = reading.next().await {
        read.extend_from_slice(&bytes.unwrap());
    }
    assert!(read == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_become_two_with_nothing_lost() {
    let mut pool = Pool::of(3, Duration::from_secs(2)).await;
    let content = bytes(1, 5_000_000);
    assert_eq!(pool.put(0, "/file", &content).await.survives, 1);
    pool.node(2).leave().await.unwrap();
    eventually("it has handed everything over", || async {
        pool.node(2).leave_progress().await.unwrap().shards_left == 0
    })
    .await;
    pool.node(2).part().await.unwrap();
    pool.kill(2).await;
    pool.holds(0, "/file", &content).await;
    pool.health("it survives one loss", |health| health.worst() == Some(1))
        .await;
    pool.kill(0).await;
    pool.holds(1, "/file", &content).await;
}

/// Gives noise, and then an error.
struct Breaking(std::io::Cursor<Vec<u8>>);

impl std::io::Read for Breaking {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::Error::other("the cable is out")),
            len => Ok(len),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upload_left_that_never_ended_is_freed() {
    let pool = Pool::of(3, Duration::from_secs(60)).await;
    let shared = bytes(2, 3_000_000);
    put(pool.node(0), "/kept", &shared).await.unwrap();
    let stripes = || async { pool.node(0).status().await.unwrap().health.stripes() };
    eventually("the stewards know it", || async { stripes().await > 0 }).await;
    let kept = stripes().await;
    let mut upload = pool.node(0).private().upload(PutOptions::default()).unwrap();
    let meta = FileMeta {
        modified: Timestamp::from_millis(1),
        executable: false,
    };
    // It begins with what is stored already, goes on with what is not, and breaks.
    let content = [shared.clone(), bytes(3, 20_000_000)].concat();
    let reader = Breaking(std::io::Cursor::new(content));
    let broken = upload.put_blocking("/broken".parse().unwrap(), meta, reader).await;
    assert!(matches!(broken, Err(NodeError::Source { .. })), "{broken:?}");
    // What was stored of it goes into the log with the next change.
    upload.make_directory(&"/directory".parse().unwrap()).await.unwrap();
    upload.finish().await.unwrap();
    eventually("it has left stripes", || async { stripes().await > kept }).await;
    assert_eq!(pool.node(0).sweep(Duration::from_secs(3600)).await.unwrap(), 0);
    assert!(pool.node(0).sweep(Duration::ZERO).await.unwrap() > 0);
    eventually("they are freed, and no others", || async { stripes().await == kept }).await;
    pool.holds(1, "/kept", &shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_moves_and_stays_readable() {
    let pool = Pool::of(2, GRACE).await;
    let content = bytes(6, 2_000_000);
    pool.put(0, "/old/deep/file", &content).await;
    pool.node(0)
        .private()
        .rename(&"/old".parse().unwrap(), &"/new".parse().unwrap())
        .await
        .unwrap();
    pool.holds(1, "/new/deep/file", &content).await;
    pool.node(0)
        .private()
        .rename(&"/new/deep/file".parse().unwrap(), &"/file".parse().unwrap())
        .await
        .unwrap();
    pool.holds(1, "/file", &content).await;
    remove_now(pool.node(0), "/new").await;
    pool.holds(1, "/file", &content).await;
    let into_itself = pool
        .node(0)
        .private()
        .rename(&"/file".parse().unwrap(), &"/file/x".parse().unwrap())
        .await;
    assert!(into_itself.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_stored_once() {
    let pool = Pool::of(1, GRACE).await;
    let content = bytes(8, 8_000_000);
    let first = pool.put(0, "/one", &content).await;
    let second = pool.put(0, "/two", &content).await;
    assert_eq!(first.deduplicated, 0);
    assert_eq!(second.deduplicated, content.len() as u64);
    assert!(second.stored < 100_000, "{second:?}");
    remove_now(pool.node(0), "/one").await;
    pool.holds(0, "/two", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_good_once_and_for_their_time() {
    let pool = Pool::of(1, GRACE).await;
    let invite = |expires| InviteOptions {
        uses: 1,
        expires,
        mine: false,
    };
    let ticket = pool
        .node(0)
        .invite(invite(Duration::from_secs(60)))
        .await
        .unwrap()
        .ticket;
    let expired = pool.node(0).invite(invite(Duration::ZERO)).await.unwrap().ticket;
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let joined = Node::join(config(&a, GRACE), &ticket).await.unwrap();
    let again = Node::join(config(&b, GRACE), &ticket).await;
    assert!(
        matches!(
            again,
            Err(JoinError::Refused {
                refusal: Refusal::Used,
                ..
            })
        ),
        "{again:?}"
    );
    assert!(matches!(
        Node::join(config(&b, GRACE), &expired).await,
        Err(JoinError::Refused {
            refusal: Refusal::Expired,
            ..
        })
    ));
    let mut typo = ticket.clone().into_bytes();
    let at = typo.len() / 2;
    typo[at] = if typo[at] == b'a' { b'b' } else { b'a' };
    let typo = String::from_utf8(typo).unwrap();
    assert!(matches!(
        Node::join(config(&b, GRACE), &typo).await,
        Err(JoinError::Ticket(_))
    ));
    joined.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_person_is_a_member_and_sees_nothing_of_mine() {
    let pool = Pool::of(1, GRACE).await;
    let (guest, _home) = pool.guest().await;
    sees(&guest, 2).await;
    let content = bytes(9, 1_000_000);
    pool.put(0, "/mine", &content).await;
    put(&guest, "/theirs", &content).await.unwrap();
    assert!(guest.private().stat(&"/mine".parse().unwrap()).await.is_err());
    assert!(pool.node(0).private().stat(&"/theirs".parse().unwrap()).await.is_err());
    assert_eq!(
        guest
            .private()
            .download(&"/theirs".parse().unwrap(), None)
            .await
            .unwrap()
            .read_to_end()
            .await
            .unwrap(),
        content
    );
    guest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_comes_back_on_a_fresh_machine_with_every_file() {
    let mut pool = Pool::of(1, GRACE).await;
    // Friends, whose machines stay.
    let mut friends = Vec::new();
    for _ in 0..3 {
        friends.push(pool.guest().await);
    }
    sees(pool.node(0), 4).await;
    let (large, small) = (bytes(10, 6_000_000), bytes(11, 500));
    pool.put(0, "/large", &large).await;
    pool.put(0, "/notes/small", &small).await;
    let kit = pool.node(0).kit().await.unwrap();
    pool.kill(0).await;
    let home = tempfile::tempdir().unwrap();
    let back = Node::restore(config(&home, GRACE), &kit).await.unwrap();
    pool.members[0] = Member { node: Some(back), home };
    pool.holds(0, "/large", &large).await;
    pool.holds(0, "/notes/small", &small).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_pool_can_give_is_an_error_that_says_what_it_can() {
    let pool = Pool::of(2, GRACE).await;
    let refused = pool.node(0).private().upload(PutOptions {
        survive: Some(3),
        ..PutOptions::default()
    });
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("survives the loss of 1, not of 3")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_node_hands_its_shards_over() {
    let mut pool = Pool::of(5, Duration::from_millis(100)).await;
    let content = bytes(12, 10_000_000);
    pool.put(0, "/file", &content).await;
    pool.health("whole", |health| health.stripes() > 4 && health.worst() == Some(2))
        .await;
    pool.node(4).leave().await.unwrap();
    eventually("drained", || async {
        pool.node(4).leave_progress().await.unwrap().shards_left == 0
    })
    .await;
    pool.node(4).part().await.unwrap();
    pool.kill(4).await;
    pool.health("still whole", |health| {
        health.stripes() > 4 && health.worst() == Some(2)
    })
    .await;
    pool.holds(1, "/file", &content).await;
    assert_eq!(pool.node(0).status().await.unwrap().nodes.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_holds_any_more_is_told_and_can_be_put_again() {
    let mut pool = Pool::of(1, GRACE).await;
    let content = bytes(11, 3_000_000);
    pool.put(0, "/docs/lost", &content).await;
    pool.kill(0).await;
    let store = pool.members[0].home.path().join("store");
    std::fs::remove_dir_all(store).unwrap();
    pool.restart(0).await;
    pool.health("the loss is seen", |health| health.lost > 0 && health.worst().is_none())
        .await;
    let status = pool.node(0).status().await.unwrap();
    assert_eq!(status.unreadable_files, 1);
    assert_eq!(status.unreadable_paths[0].to_string(), "home:/docs/lost");
    assert!(status.advice[0].contains("/docs/lost"), "{:?}", status.advice);
    pool.put(0, "/docs/lost", &content).await;
    pool.health("nothing is lost any more", |health| {
        health.lost == 0 && health.worst() == Some(0)
    })
    .await;
    pool.holds(0, "/docs/lost", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_forgotten_counts_no_more() {
    let mut pool = Pool::of(3, Duration::from_secs(2)).await;
    let content = bytes(12, 3_000_000);
    pool.put(0, "/file", &content).await;
    let ids: Vec<_> = (0..3).map(|i| pool.node(i).identity().node).collect();
    assert!(matches!(pool.node(0).forget(ids[0]).await, Err(NodeError::ForgetSelf)));
    let nobody = potluck_types::NodeId::from_bytes([1; 32]);
    assert!(matches!(pool.node(0).forget(nobody).await, Err(NodeError::NotYours(_))));
    pool.kill(2).await;
    pool.node(0).forget(ids[2]).await.unwrap();
    eventually("the others know", || async {
        pool.node(1).status().await.unwrap().nodes.len() == 2
    })
    .await;
    pool.health("it is coded for the two that are left", |health| {
        health.worst() == Some(1) && health.endangered == 0
    })
    .await;
    pool.kill(0).await;
    pool.holds(1, "/file", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_wrote_is_there_for_those_that_come_after_it_was_forgotten() {
    let mut pool = Pool::of(3, Duration::from_secs(2)).await;
    let content = bytes(21, 3_000_000);
    pool.put(2, "/file", &content).await;
    let writer = pool.node(2).identity().node;
    pool.kill(2).await;
    pool.node(0).forget(writer).await.unwrap();
    pool.add().await;
    pool.all_see_each_other().await;
    pool.holds(3, "/file", &content).await;
    assert_eq!(pool.node(3).sweep(Duration::ZERO).await.unwrap(), 0);
    pool.holds(0, "/file", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_say_whether_they_reach_a_node_and_what_time_it_is() {
    let pool = Pool::of(2, GRACE).await;
    let probes = pool.node(0).probe().await;
    assert_eq!(probes.len(), 1);
    assert_eq!(probes[0].node, pool.node(1).identity().node);
    assert_eq!(probes[0].clock_ahead_millis, 0);
    assert_eq!(probes[0].reached.len(), 1);
    assert!(probes[0].reached[0].1, "{probes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_while_one_of_three_is_away_survives_a_loss_all_the_same() {
    let mut pool = Pool::of(3, GRACE).await;
    pool.kill(2).await;
    pool.are_away(0, 1).await;
    let content = bytes(13, 3_000_000);
    let report = pool.put(0, "/file", &content).await;
    assert_eq!((report.survives, report.degraded), (1, 0));
    pool.kill(0).await;
    pool.holds(1, "/file", &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_alone_is_said_to_survive_nothing_until_others_are_back() {
    for grace in [GRACE, Duration::from_secs(2)] {
        written_alone(grace).await;
    }
}

/// The other is away for less than the grace period, or for more.
async fn written_alone(grace: Duration) {
    let mut pool = Pool::of(2, grace).await;
    pool.kill(1).await;
    pool.are_away(0, 1).await;
    eventually("the grace period is over, if it is short", || async {
        let nodes = pool.node(0).status().await.unwrap().nodes;
        let since = nodes.iter().find_map(|info| info.away_since).unwrap();
        grace == GRACE || SystemClock.now().since(since) > grace
    })
    .await;
    let (content, tiny) = (bytes(14, 3_000_000), bytes(15, 100));
    let report = pool.put(0, "/file", &content).await;
    assert_eq!((report.survives, report.wanted), (0, 1));
    let report = pool.put(0, "/tiny", &tiny).await;
    assert_eq!((report.survives, report.wanted), (0, 1));
    let strict = PutOptions {
        strict: true,
        ..PutOptions::default()
    };
    assert!(matches!(
        pool.node(0).private().upload(strict),
        Err(NodeError::Shards(ShardsError::TooFewDomains { .. }))
    ));
    pool.restart(1).await;
    pool.health("it is coded for two", |health| {
        health.stripes() > 0 && health.worst() == Some(1) && health.endangered == 0
    })
    .await;
    pool.kill(0).await;
    pool.holds(1, "/file", &content).await;
    pool.holds(1, "/tiny", &tiny).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_while_a_holder_is_away_is_no_cause_for_concern() {
    let mut pool = Pool::of(3, GRACE).await;
    pool.put(0, "/file", &bytes(16, 3_000_000)).await;
    pool.put(0, "/other", &bytes(17, 3_000_000)).await;
    let stripes = pool.node(0).status().await.unwrap().health.stripes();
    pool.kill(2).await;
    pool.are_away(0, 1).await;
    remove_now(pool.node(0), "/file").await;
    pool.health("nobody looks after it any more", |health| {
        (1..stripes).contains(&health.stripes()) && health.unreadable == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_forgotten_learns_of_it() {
    let mut pool = Pool::of(2, GRACE).await;
    let forgotten = pool.node(1).identity().node;
    pool.kill(1).await;
    pool.node(0).forget(forgotten).await.unwrap();
    pool.restart(1).await;
    within("it hears that it is no member", pool.node(1).taken_out()).await;
    pool.kill(1).await;
    let config = config(&pool.members[1].home, GRACE);
    let refused = Node::start(config).await.map(drop);
    assert!(
        matches!(refused, Err(StartError::Home(HomeError::Left { .. }))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_whose_node_has_left_does_not_start_again() {
    let mut pool = Pool::of(2, GRACE).await;
    assert!(matches!(pool.node(1).part().await, Err(NodeError::NotLeaving)));
    pool.node(1).leave().await.unwrap();
    assert!(pool.node(1).leave_progress().await.unwrap().is_leaving);
    pool.node(1).stay();
    assert!(!pool.node(1).leave_progress().await.unwrap().is_leaving);
    assert!(matches!(pool.node(1).part().await, Err(NodeError::NotLeaving)));
    pool.node(1).leave().await.unwrap();
    pool.node(1).part().await.unwrap();
    pool.kill(1).await;
    let config = config(&pool.members[1].home, GRACE);
    let refused = Node::start(config).await.map(drop);
    assert!(
        matches!(refused, Err(StartError::Home(HomeError::Left { .. }))),
        "{refused:?}"
    );
}
