//! The machines of one person: one is lost, and what comes later is not for it.

use crate::common::{
    Pool, WRITE, bytes, eventually, listens_at, name, put_into, read, read_when_named, revoke, sees, within,
};
use potluck_node::{
    HomeError, InviteOptions, JoinError, LinkError, LinkOptions, Node, NodeConfig, NodeError, Refusal, StartError,
};
use potluck_spaces::Path;
use std::{collections::BTreeSet, time::Duration};
use tempfile::TempDir;

const GRACE: Duration = Duration::from_secs(3600);
const FOR_MINE: InviteOptions = InviteOptions {
    uses: 1,
    expires: Duration::from_secs(3600),
    mine: true,
};

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

/// Anna's machines; Bob, who writes in a space of hers, and she in one of his.
struct Party {
    pool: Pool,
    bob: Node,
    _home: TempDir,
}

impl Party {
    async fn of(machines: usize) -> Self {
        let pool = Pool::of(machines, GRACE).await;
        let (bob, home) = pool.guest().await;
        let anna = pool.node(0);
        anna.call_me("anna".parse().unwrap()).await;
        bob.call_me("bob".parse().unwrap()).await;
        for node in pool.running().into_iter().chain([&bob]) {
            sees(node, machines + 1).await;
            eventually("names are heard of", || async {
                node.people().iter().all(|person| person.name.is_some())
            })
            .await;
        }
        anna.create_space(name("work")).await.unwrap();
        anna.share(&name("work"), "bob", WRITE).await.unwrap();
        bob.create_space(name("trips")).await.unwrap();
        bob.share(&name("trips"), "anna", WRITE).await.unwrap();
        accept(&bob, "work").await;
        accept(anna, "trips").await;
        for node in pool.running() {
            for space in ["work", "trips"] {
                eventually("the space is here", || async { node.space(&name(space)).is_ok() }).await;
            }
        }
        Self { pool, bob, _home: home }
    }
}

async fn accept(node: &Node, space: &str) {
    eventually("it is offered", || async { !node.offers().await.unwrap().is_empty() }).await;
    node.accept(space, None).await.unwrap();
}

/// How often the person's key was replaced, as the file of their keys has it.
fn keys_in(home: &TempDir) -> usize {
    std::fs::read_to_string(home.path().join("user.key"))
        .unwrap()
        .lines()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_machine_is_out_and_all_goes_on_without_it() {
    let Party { mut pool, bob, _home } = Party::of(4).await;
    pool.put(0, "/before", &bytes(1, 300_000)).await;
    let lost = pool.node(3);
    let (id, work) = (lost.identity().node, lost.space(&name("work")).unwrap());
    put_into(&work, "/by-lost", b"what it wrote counts").await.unwrap();
    drop(work);
    let link = pool
        .node(0)
        .link(&name("work"), &path("/by-lost"), LinkOptions::default())
        .await
        .unwrap();
    assert!(bob.open_link(&link.link.parse().unwrap(), None).await.is_ok());
    // One machine is away while it happens.
    let away = pool.node(2).identity().node;
    let address = pool.address(2);
    pool.kill(2).await;
    pool.are_away(0, 1).await;
    let revoked = within("it is revoked", revoke(pool.node(0), &[id])).await.unwrap();
    assert_eq!(
        (&revoked.nodes[..], revoked.spaces, revoked.of_others, revoked.links),
        (&[id][..], 2, 1, 1)
    );
    assert_eq!((revoked.away, revoked.unreached.len()), (vec![away], 0));
    within("it learns of it", pool.node(3).taken_out()).await;
    pool.kill(3).await;
    let refused = Node::start(pool.config(&pool.members[3].home)).await.map(drop);
    assert!(matches!(refused, Err(StartError::Home(HomeError::Left { .. }))));
    let found = bob.open_link(&link.link.parse().unwrap(), None).await.map(drop);
    assert!(matches!(found, Err(NodeError::Link(LinkError::Revoked))), "{found:?}");
    // Everybody who stays reads what was there, and what comes.
    pool.put(0, "/after", &bytes(2, 300_000)).await;
    pool.holds(1, "/after", &bytes(2, 300_000)).await;
    pool.holds(1, "/before", &bytes(1, 300_000)).await;
    for (writer, reader, space, at) in [
        (pool.node(1), &bob, "work", "/of-anna"),
        (&bob, pool.node(1), "work", "/of-bob"),
        (&bob, pool.node(0), "trips", "/of-bob"),
        (pool.node(1), &bob, "trips", "/of-anna"),
    ] {
        put_into(&writer.space(&name(space)).unwrap(), at, b"after")
            .await
            .unwrap();
        let content = read_when_named(&reader.space(&name(space)).unwrap(), at).await;
        assert_eq!(content, b"after", "{space}:{at}");
    }
    assert_eq!(
        read(&bob.space(&name("work")).unwrap(), "/by-lost").await.unwrap(),
        b"what it wrote counts"
    );
    // So does the one that was away, and one that comes later.
    pool.restart_at(2, address).await;
    pool.holds(2, "/after", &bytes(2, 300_000)).await;
    eventually("it was given the key", || async { keys_in(&pool.members[2].home) == 2 }).await;
    pool.add().await;
    for i in [2, 4] {
        pool.holds(i, "/before", &bytes(1, 300_000)).await;
        let space = pool.node(i).space(&name("work"));
        eventually("the space is here", || async {
            pool.node(i).space(&name("work")).is_ok()
        })
        .await;
        drop(space);
        let work = pool.node(i).space(&name("work")).unwrap();
        assert_eq!(read_when_named(&work, "/of-bob").await, b"after");
        let at = format!("/by-{i}");
        put_into(&work, &at, b"late").await.unwrap();
        assert_eq!(read_when_named(&bob.space(&name("work")).unwrap(), &at).await, b"late");
    }
    // They have it after a restart, too.
    for i in [0, 4] {
        assert_eq!(keys_in(&pool.members[i].home), 2);
        pool.kill(i).await;
    }
    pool.restart(0).await;
    pool.holds(0, "/after", &bytes(2, 300_000)).await;
    pool.put(0, "/later", b"later").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kit_from_before_says_so_and_a_later_one_brings_everything_back() {
    let mut pool = Pool::of(3, GRACE).await;
    pool.put(0, "/before", b"before").await;
    let old = pool.node(0).kit().await.unwrap();
    let (lost, address) = (pool.node(2).identity().node, listens_at(pool.node(2)));
    pool.kill(2).await;
    revoke(pool.node(0), &[lost]).await.unwrap();
    pool.put(0, "/after", b"after").await;
    let new = pool.node(0).kit().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let refused = Node::restore(pool.config(&home), &old).await.map(drop);
    assert!(
        matches!(
            refused,
            Err(JoinError::Refused {
                refusal: Refusal::Replaced,
                ..
            })
        ),
        "{refused:?}"
    );
    let home = tempfile::tempdir().unwrap();
    let back = Node::restore(pool.config(&home), &new).await.unwrap();
    for (at, content) in [("/before", b"before".to_vec()), ("/after", b"after".to_vec())] {
        assert_eq!(read_when_named(&back.private(), at).await, content);
    }
    // A second machine is lost, and taken out by the one that has just come.
    let second = pool.node(1).identity().node;
    revoke(&back, &[second]).await.unwrap();
    within("it learns of it", pool.node(1).taken_out()).await;
    crate::common::put(&back, "/third", b"third").await.unwrap();
    pool.holds(0, "/third", b"third").await;
    // The first one that was lost was off all the time.
    pool.restart_at(2, address).await;
    within("it learns of it", pool.node(2).taken_out()).await;
}

/// Two of Anna's machines each take out another one, and hear of each other only later; Bob has heard of the first.
#[tokio::test(flavor = "multi_thread")]
async fn what_two_machines_took_out_apart_is_out_and_nothing_else_is_lost() {
    let Party { mut pool, bob, _home } = Party::of(4).await;
    let ids: Vec<_> = pool.running().iter().map(|node| node.identity().node).collect();
    let (bobs_config, address) = (pool.config(&_home), pool.address(1));
    for i in [1, 2, 3] {
        pool.kill(i).await;
    }
    pool.are_away(0, 3).await;
    revoke(pool.node(0), &[ids[3]]).await.unwrap();
    pool.put(0, "/by-0", b"apart").await;
    let work = pool.node(0).space(&name("work")).unwrap();
    put_into(&work, "/by-0", b"apart").await.unwrap();
    assert_eq!(
        read_when_named(&bob.space(&name("work")).unwrap(), "/by-0").await,
        b"apart"
    );
    drop(work);
    bob.stop().await;
    drop(bob);
    pool.kill(0).await;
    pool.restart_at(1, address).await;
    revoke(pool.node(1), &[ids[2]]).await.unwrap();
    pool.put(1, "/by-1", b"apart, too").await;
    let work = pool.node(1).space(&name("work")).unwrap();
    put_into(&work, "/by-1", b"apart, too").await.unwrap();
    drop(work);
    // One more machine comes, who knows nothing of the other half.
    let ticket = pool.node(1).invite(FOR_MINE).await.unwrap().ticket;
    let late_home = tempfile::tempdir().unwrap();
    let late = Node::join(pool.config(&late_home), &ticket).await.unwrap();
    // They meet, and go on apart until the person says that it was them both times.
    pool.restart(0).await;
    let bob = crate::common::started(bobs_config).await;
    for (i, took_out) in [(0, ids[2]), (1, ids[3])] {
        eventually("it hears of the other", || async {
            pool.node(i).status().await.unwrap().rivals.iter().any(|rival| {
                rival.can_be_reconciled && rival.takes_out == [took_out] && !rival.keeps.contains(&took_out)
            })
        })
        .await;
        assert_eq!(keys_in(&pool.members[i].home), 2);
    }
    let reconciled = within("it is reconciled", pool.node(0).reconcile(None)).await.unwrap();
    assert_eq!(
        reconciled.lost.iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([&ids[2], &ids[3]])
    );
    for node in [pool.node(0), pool.node(1), &bob] {
        eventually("both keys are replaced by one, and both machines are out", || async {
            let status = node.status().await.unwrap();
            let is_in = |id| status.nodes.iter().any(|info| info.id == id);
            let all = is_in(ids[0]) && is_in(ids[1]) && !is_in(ids[2]) && !is_in(ids[3]);
            // Whoever makes a rotation could let somebody in: who came by one of two needs another ticket.
            all && !is_in(late.identity().node) && status.rivals.is_empty()
        })
        .await;
    }
    assert!(matches!(pool.node(0).reconcile(None).await, Err(NodeError::NoRival)));
    late.stop().await;
    drop(late);
    let ticket = pool.node(0).invite(FOR_MINE).await.unwrap().ticket;
    let late_home = tempfile::tempdir().unwrap();
    let late = Node::join(pool.config(&late_home), &ticket).await.unwrap();
    for node in [pool.node(0), pool.node(1), &late] {
        for (at, content) in [("/by-0", &b"apart"[..]), ("/by-1", b"apart, too")] {
            assert_eq!(read_when_named(&node.private(), at).await, content);
        }
    }
    for node in [pool.node(0), pool.node(1), &late, &bob] {
        eventually("the space is here", || async { node.space(&name("work")).is_ok() }).await;
        let work = node.space(&name("work")).unwrap();
        for (at, content) in [("/by-0", &b"apart"[..]), ("/by-1", b"apart, too")] {
            assert_eq!(read_when_named(&work, at).await, content);
        }
    }
    // All of them write, and read each other's.
    for (i, writer) in [pool.node(0), pool.node(1), &late, &bob].into_iter().enumerate() {
        let at = format!("/together-{i}");
        eventually("it may write", || async {
            Box::pin(put_into(&writer.space(&name("work")).unwrap(), &at, b"together"))
                .await
                .is_ok()
        })
        .await;
        for reader in [pool.node(0), pool.node(1), &late, &bob] {
            assert_eq!(
                read_when_named(&reader.space(&name("work")).unwrap(), &at).await,
                b"together"
            );
        }
    }
}

/// What a lost machine wrote is known to some of the person's machines only, and others come back or come anew that have never heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_machine_wrote_counts_as_far_as_any_machine_knows_it() {
    let Party { mut pool, bob, _home } = Party::of(5).await;
    let addresses: Vec<_> = (0..5).map(|i| pool.address(i)).collect();
    let lost_id = pool.node(4).identity().node;
    // One knows nothing of it.
    pool.kill(1).await;
    pool.put(4, "/by-lost", b"home").await;
    put_into(&pool.node(4).space(&name("work")).unwrap(), "/by-lost", b"work")
        .await
        .unwrap();
    pool.holds(0, "/by-lost", b"home").await;
    // Two know of more than the others do, and one of these is lost.
    pool.kill(0).await;
    pool.kill(2).await;
    bob.stop().await;
    drop(bob);
    pool.are_away(4, 4).await;
    pool.put(4, "/last", b"last").await;
    put_into(&pool.node(4).space(&name("work")).unwrap(), "/last", b"last")
        .await
        .unwrap();
    for space in [pool.node(3).private(), pool.node(3).space(&name("work")).unwrap()] {
        read_when_named(&space, "/last").await;
    }
    pool.kill(3).await;
    pool.kill(4).await;
    for i in [0, 2] {
        pool.restart_at(i, addresses[i].clone()).await;
    }
    sees(pool.node(0), 2).await;
    revoke(pool.node(0), &[lost_id]).await.unwrap();
    pool.holds(0, "/by-lost", b"home").await;
    // The one that knows nothing, one that has never been here, and the one that knows more.
    pool.restart_at(1, addresses[1].clone()).await;
    eventually("it was given the key", || async { keys_in(&pool.members[1].home) == 2 }).await;
    pool.add().await;
    let late = pool.members.len() - 1;
    for i in [0, 1, 2, late] {
        pool.holds(i, "/by-lost", b"home").await;
    }
    pool.restart_at(3, addresses[3].clone()).await;
    let bob = crate::common::started(pool.config(&_home)).await;
    for i in [0, 1, 2, 3, late] {
        pool.holds(i, "/last", b"last").await;
        pool.holds(i, "/by-lost", b"home").await;
    }
    for node in [0, 1, 2, 3, late].map(|i| pool.node(i)).into_iter().chain([&bob]) {
        eventually("the space is here", || async { node.space(&name("work")).is_ok() }).await;
        let work = node.space(&name("work")).unwrap();
        for (at, content) in [("/by-lost", &b"work"[..]), ("/last", b"last")] {
            assert_eq!(read_when_named(&work, at).await, content);
        }
    }
}

/// The machine that revokes has been off for long, and those who keep what the lost one wrote are other people's, and not here.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_others_keep_of_a_lost_machine_is_waited_for() {
    let mut pool = Pool::of(2, GRACE).await;
    let (bob, bobs_home) = pool.guest().await;
    let (carl, carls_home) = pool.guest().await;
    let others = [&bobs_home, &carls_home];
    sees(pool.node(1), 4).await;
    let at = |node: &Node, home: &TempDir, pool: &Pool| NodeConfig {
        listen: vec![listens_at(node)],
        ..pool.config(home)
    };
    let configs = [at(&bob, others[0], &pool), at(&carl, others[1], &pool)];
    let lost_id = pool.node(1).identity().node;
    pool.put(0, "/before", b"before").await;
    pool.holds(1, "/before", b"before").await;
    pool.kill(0).await;
    pool.are_away(1, 1).await;
    pool.put(1, "/by-lost", b"by the lost one").await;
    pool.kill(1).await;
    for node in [bob, carl] {
        node.stop().await;
    }
    pool.restart(0).await;
    revoke(pool.node(0), &[lost_id]).await.unwrap();
    // And once more from the beginning.
    pool.kill(0).await;
    pool.restart(0).await;
    pool.put(0, "/after", b"after").await;
    let [bob, carl] = [
        crate::common::started(configs[0].clone()).await,
        crate::common::started(configs[1].clone()).await,
    ];
    pool.holds(0, "/by-lost", b"by the lost one").await;
    pool.holds(0, "/before", b"before").await;
    for node in [&bob, &carl] {
        eventually("it hears of it", || async {
            let nodes = node.status().await.unwrap().nodes;
            nodes.iter().all(|info| info.id != lost_id)
        })
        .await;
    }
    pool.holds(0, "/by-lost", b"by the lost one").await;
}

/// Whoever has the lost machine has the ticket that it came with, too.
#[tokio::test(flavor = "multi_thread")]
async fn no_ticket_from_before_lets_a_lost_machine_in() {
    let pool = Pool::of(2, GRACE).await;
    let several = || InviteOptions { uses: 9, ..FOR_MINE };
    let ticket = pool.node(0).invite(several()).await.unwrap().ticket;
    let home = tempfile::tempdir().unwrap();
    let lost = Node::join(pool.config(&home), &ticket).await.unwrap();
    sees(pool.node(0), 3).await;
    let id = lost.identity().node;
    lost.stop().await;
    drop(lost);
    revoke(pool.node(0), &[id]).await.unwrap();
    let anew = |key: Option<&TempDir>| {
        let home = tempfile::tempdir().unwrap();
        if let Some(from) = key {
            std::fs::copy(from.path().join("node.key"), home.path().join("node.key")).unwrap();
        }
        home
    };
    let later = pool.node(0).invite(several()).await.unwrap().ticket;
    for (ticket, key, why) in [
        (&ticket, Some(&home), Refusal::TakenOut),
        (&later, Some(&home), Refusal::TakenOut),
        (&ticket, None, Refusal::Replaced),
    ] {
        let home = anew(key);
        match Node::join(pool.config(&home), ticket).await.map(drop) {
            Err(JoinError::Refused { refusal, .. }) => assert_eq!(refusal, why),
            other => panic!("{other:?}"),
        }
    }
    let home = anew(None);
    let back = Node::join(pool.config(&home), &later).await.unwrap();
    sees(&back, 3).await;
}

/// The thief replaces the key, too, where it is heard of first, and has a machine of its own join.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_by_a_thief_takes_nobody_in_when_it_is_made_good() {
    let Party { mut pool, bob, _home } = Party::of(3).await;
    let ids: Vec<_> = pool.running().iter().map(|node| node.identity().node).collect();
    let address = pool.address(2);
    let bobs_config = NodeConfig {
        listen: vec![listens_at(&bob)],
        ..pool.config(&_home)
    };
    pool.kill(1).await;
    pool.kill(2).await;
    bob.stop().await;
    drop(bob);
    pool.are_away(0, 3).await;
    let status = pool.node(0).status().await.unwrap();
    let [one, two] = [BTreeSet::from([ids[1]]), BTreeSet::from([ids[2]])];
    assert!(status.rivals.is_empty());
    // What was not said to stay is not given the key.
    let unsaid = pool.node(0).revoke(&two, &BTreeSet::new()).await;
    assert!(matches!(unsaid, Err(NodeError::NotSaid(node)) if node == ids[1]));
    pool.node(0).revoke(&two, &one).await.unwrap();
    pool.kill(0).await;
    // The thief has machine 2, and takes out machine 1.
    let bob = crate::common::started(bobs_config).await;
    pool.restart_at(2, address).await;
    sees(&bob, 2).await;
    revoke(pool.node(2), &[ids[1]]).await.unwrap();
    let ticket = pool.node(2).invite(FOR_MINE).await.unwrap().ticket;
    let planted_home = tempfile::tempdir().unwrap();
    let planted = Node::join(pool.config(&planted_home), &ticket).await.unwrap();
    let planted_id = planted.identity().node;
    sees(&bob, 3).await;
    pool.kill(2).await;
    // Anna hears of it from Bob, who goes by it; she does not.
    pool.restart(0).await;
    eventually("she is told", || async {
        let rivals = pool.node(0).status().await.unwrap().rivals;
        rivals.iter().any(|rival| rival.takes_out == [ids[1]])
    })
    .await;
    assert_eq!(keys_in(&pool.members[0].home), 2);
    pool.node(0).reconcile(None).await.unwrap();
    for node in [pool.node(0), &bob] {
        eventually("neither is in", || async {
            let nodes = node.status().await.unwrap().nodes;
            let is_in = |id| nodes.iter().any(|info| info.id == id);
            is_in(ids[0]) && !is_in(ids[2]) && !is_in(planted_id)
        })
        .await;
    }
    pool.put(0, "/after", b"after").await;
    assert_eq!(keys_in(&planted_home), 2, "it was not given the next key");
    let work = pool.node(0).space(&name("work")).unwrap();
    put_into(&work, "/after", b"after").await.unwrap();
    assert_eq!(
        read_when_named(&bob.space(&name("work")).unwrap(), "/after").await,
        b"after"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_another_machine_of_ones_own_is_revoked() {
    let pool = Pool::of(2, GRACE).await;
    let (bob, _home) = pool.guest().await;
    sees(&bob, 3).await;
    let [own, other] = [pool.node(0).identity().node, pool.node(1).identity().node];
    assert!(matches!(revoke(pool.node(0), &[own]).await, Err(NodeError::RevokeSelf)));
    assert!(matches!(revoke(&bob, &[other]).await, Err(NodeError::NotYours(node)) if node == other));
    let bobs = bob.identity().node;
    assert!(matches!(
        revoke(pool.node(0), &[other, bobs]).await,
        Err(NodeError::NotYours(node)) if node == bobs
    ));
    // One that has left, or was forgotten, has the key all the same.
    pool.node(0).forget(other).await.unwrap();
    let revoked = revoke(pool.node(0), &[other]).await.unwrap();
    assert_eq!(revoked.spaces, 1);
    // Once more would replace the key for nothing.
    let again = revoke(pool.node(0), &[other]).await;
    assert!(matches!(again, Err(NodeError::OutAlready(node)) if node == other));
}
