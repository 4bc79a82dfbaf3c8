//! Spaces of several people: who is let in reads and writes what they may, who is taken out nothing that comes after.

use crate::common::{
    Pool, READ, WRITE, bytes, config, eventually, listens_at, name, put_into, read, read_when_named, sees, started,
};
use potluck_node::{
    Access, AccessChange, AccessEvent, LetIn, Member, Node, NodeConfig, NodeError, Path, Person, RemoveOptions, Space,
};
use potluck_types::{ByteSize, Clock, SpaceName, SystemClock, Timestamp};
use std::{collections::BTreeSet, time::Duration};
use tempfile::TempDir;

const GRACE: Duration = Duration::from_secs(3600);

/// A pool of two machines of one person, and one of each of these others.
pub(crate) async fn with_guests(guests: &[&str]) -> (Pool, Vec<(Node, TempDir)>) {
    let pool = Pool::of(2, GRACE).await;
    pool.node(0).call_me("anna".parse().unwrap()).await;
    let mut others = Vec::new();
    for guest in guests {
        let (node, home) = pool.guest().await;
        node.call_me(guest.parse().unwrap()).await;
        others.push((node, home));
    }
    let all = 2 + guests.len();
    for node in pool.running().into_iter().chain(others.iter().map(|(node, _)| node)) {
        eventually("all see and know each other", || async {
            let nodes = node.status().await.unwrap().nodes;
            let here = nodes
                .iter()
                .filter(|node| node.capacity.0 > 0 && node.away_since.is_none());
            let named = node
                .people()
                .into_iter()
                .filter(|person| person.name.is_some() && person.can_be_let_in);
            here.count() == all && named.count() == 1 + guests.len()
        })
        .await;
    }
    (pool, others)
}

pub(crate) async fn accepted(node: &Node, called: &str) -> Space {
    eventually("the offer arrives", || async {
        node.offers()
            .await
            .unwrap()
            .iter()
            .any(|offer| offer.name == name(called))
    })
    .await;
    node.accept(called, None).await.unwrap();
    node.space(&name(called)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_reads_what_was_there_and_what_comes() {
    let (pool, others) = with_guests(&["bob", "carol"]).await;
    let (bob, carol) = (&others[0].0, &others[1].0);
    let (old, new) = (bytes(1, 2_000_000), bytes(2, 300));
    pool.node(0).create_space(name("photos")).await.unwrap();
    let space = pool.node(0).space(&name("photos")).unwrap();
    put_into(&space, "/before", &old).await.unwrap();
    let member = pool.node(0).share(&name("photos"), "bob", READ).await.unwrap().member;
    assert_eq!(
        (member.person.called(), member.access.may_write),
        ("bob".to_owned(), false)
    );
    let theirs = accepted(bob, "photos").await;
    assert!(read_when_named(&theirs, "/before").await == old);
    put_into(&space, "/after", &new).await.unwrap();
    assert!(read_when_named(&theirs, "/after").await == new);
    // Reading is not writing, whatever is tried.
    let refused = put_into(&theirs, "/mine", &new).await;
    assert!(matches!(refused, Err(NodeError::ReadOnly)), "{refused:?}");
    let refused = theirs
        .rename(&"/after".parse().unwrap(), &"/moved".parse().unwrap())
        .await;
    assert!(matches!(refused, Err(NodeError::ReadOnly)), "{refused:?}");
    let shared = bob.share(&name("photos"), "carol", READ).await;
    assert!(matches!(shared, Err(NodeError::MayNotShare(_))), "{shared:?}");
    // Carol, who was not let in, sees nothing of it.
    assert!(carol.offers().await.unwrap().is_empty());
    assert!(matches!(
        carol.accept("photos", None).await,
        Err(NodeError::NoSuchOffer(_))
    ));
    let members = bob.members(&name("photos")).await.unwrap();
    let names: Vec<_> = members.iter().map(|member| member.person.called()).collect();
    assert_eq!(names, ["anna", "bob"]);
    for (node, _) in others {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_was_let_in_puts_no_more_than_they_may() {
    let (pool, others) = with_guests(&["bob"]).await;
    let (anna, bob) = (pool.node(0), &others[0].0);
    let (work, at) = (name("work"), |text: &str| text.parse::<Path>().unwrap());
    anna.create_space(work.clone()).await.unwrap();
    let hers = anna.space(&work).unwrap();
    put_into(&hers, "/hers", &bytes(1, 2_000_000)).await.unwrap();
    let up_to = |quota| Access {
        quota: Some(ByteSize(quota)),
        ..WRITE
    };
    let member = anna.share(&work, "bob", up_to(1_000_000)).await.unwrap().member;
    assert_eq!(
        (member.access.quota, member.used),
        (Some(ByteSize(1_000_000)), ByteSize(0))
    );
    let his = accepted(bob, "work").await;
    read_when_named(&his, "/hers").await;
    put_into(&his, "/one", &bytes(2, 600_000)).await.unwrap();
    let refused = put_into(&his, "/two", &bytes(3, 600_000)).await.map(drop);
    let is_over = |refused: &Result<(), NodeError>, there: u64| matches!(refused, Err(NodeError::OverShare { quota, used, .. }) if (quota.0, used.0) == (1_000_000, there));
    assert!(is_over(&refused, 600_000), "{refused:?}");
    assert!(his.stat(&at("/two")).await.is_err());
    // Small ones together, too.
    let mut refused = Ok(());
    for i in 0..200 {
        if let Err(error) = put_into(&his, &format!("/small/{i}"), &bytes(i, 4_000)).await {
            refused = Err(error);
            break;
        }
    }
    assert!(is_over(&refused, 1_000_000), "{refused:?}");
    // What others do is not theirs: the owner overwrites, moves, and is not bounded.
    put_into(&hers, "/more", &bytes(4, 2_000_000)).await.unwrap();
    his.rename(&at("/hers"), &at("/renamed")).await.unwrap();
    // What can be brought back counts, and room is made by letting go of it.
    let gently = RemoveOptions::default();
    his.remove(&at("/one"), gently).await.unwrap();
    assert!(put_into(&his, "/two", &bytes(3, 600_000)).await.is_err());
    his.empty_trash(&at("/one")).await.unwrap();
    // What he has moved counts as his, and there is more of that than he may have; with more he may.
    assert!(put_into(&his, "/two", &bytes(3, 600_000)).await.is_err());
    let member = anna.share(&work, "bob", up_to(4_000_000)).await.unwrap();
    assert_eq!(member.member.access.quota, Some(ByteSize(4_000_000)));
    eventually("he may put more", || async {
        Box::pin(put_into(&his, "/two", &bytes(3, 600_000))).await.is_ok()
    })
    .await;
    let used = |members: Vec<Member>| members.into_iter().find(|member| !member.is_owner).unwrap().used.0;
    eventually("his are counted alike", || async {
        let counts = (
            used(anna.members(&work).await.unwrap()),
            used(bob.members(&work).await.unwrap()),
        );
        counts.0 == counts.1 && counts.0 >= 2_600_000
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_people_write_and_all_of_them_see_it() {
    let (pool, others) = with_guests(&["bob", "carol"]).await;
    let (bob, carol) = (&others[0].0, &others[1].0);
    pool.node(0).create_space(name("work")).await.unwrap();
    for guest in ["bob", "carol"] {
        pool.node(0).share(&name("work"), guest, WRITE).await.unwrap();
    }
    let (theirs, hers) = (accepted(bob, "work").await, accepted(carol, "work").await);
    let (from_bob, from_carol) = (bytes(3, 700_000), bytes(4, 700_000));
    put_into(&theirs, "/bob", &from_bob).await.unwrap();
    put_into(&hers, "/carol", &from_carol).await.unwrap();
    eventually("the space is on the owner's other machine", || async {
        pool.node(1).space(&name("work")).is_ok()
    })
    .await;
    for space in [
        pool.node(0).space(&name("work")).unwrap(),
        pool.node(1).space(&name("work")).unwrap(),
        theirs.clone(),
        hers.clone(),
    ] {
        assert!(read_when_named(&space, "/bob").await == from_bob);
        assert!(read_when_named(&space, "/carol").await == from_carol);
    }
    // One changes what another has written, and the others see that.
    let changed = bytes(5, 1_000);
    put_into(&hers, "/bob", &changed).await.unwrap();
    let path = "/bob".parse().unwrap();
    eventually("the change arrives", || async {
        theirs.stat(&path).await.is_ok_and(|stat| stat.entry.len == 1_000)
    })
    .await;
    assert!(read(&theirs, "/bob").await.unwrap() == changed);
    for (node, _) in others {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_taken_out_reads_and_writes_nothing_that_comes_after() {
    let (pool, others) = with_guests(&["bob"]).await;
    let bob = &others[0].0;
    pool.node(0).create_space(name("work")).await.unwrap();
    let space = pool.node(0).space(&name("work")).unwrap();
    pool.node(0).share(&name("work"), "bob", WRITE).await.unwrap();
    let theirs = accepted(bob, "work").await;
    let (by_bob, after) = (bytes(6, 600_000), bytes(7, 600_000));
    put_into(&theirs, "/by-bob", &by_bob).await.unwrap();
    let gone = pool.node(0).unshare(&name("work"), "bob").await.unwrap();
    assert_eq!((gone.person.called(), gone.away), ("bob".to_owned(), 0));
    put_into(&space, "/after", &after).await.unwrap();
    // They keep what they had, and everybody keeps what they have written.
    assert!(read(&theirs, "/by-bob").await.unwrap() == by_bob);
    assert!(read_when_named(&space, "/by-bob").await == by_bob);
    let refused = put_into(&theirs, "/more", &after).await;
    assert!(matches!(refused, Err(NodeError::NotIn)), "{refused:?}");
    // All that is kept anywhere may reach them: they cannot open it.
    bob.sweep(Duration::from_secs(3600)).await.unwrap();
    assert!(theirs.stat(&"/after".parse().unwrap()).await.is_err());
    let again = pool.node(0).unshare(&name("work"), "bob").await;
    assert!(matches!(again, Err(NodeError::NotShared(_))), "{again:?}");
    // Let in once more, they read all of it.
    pool.node(0).share(&name("work"), "bob", READ).await.unwrap();
    assert!(read_when_named(&theirs, "/after").await == after);
    for (node, _) in others {
        node.stop().await;
    }
}

/// One writes while the owner is away, and is taken out by the owner, who has not heard of it. A third, who has, drops it when they meet, and can go on.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_beside_a_revocation_counts_nowhere_and_keeps_nobody_from_writing() {
    let (mut pool, mut others) = with_guests(&["bob", "carol"]).await;
    pool.node(0).create_space(name("work")).await.unwrap();
    for guest in ["bob", "carol"] {
        pool.node(0).share(&name("work"), guest, WRITE).await.unwrap();
    }
    let (carol, carols_home) = others.pop().unwrap();
    let (bob, _bobs_home) = others.pop().unwrap();
    let (theirs, hers) = (accepted(&bob, "work").await, accepted(&carol, "work").await);
    let content = bytes(9, 1_000);
    put_into(&theirs, "/known", &content).await.unwrap();
    assert!(read_when_named(&pool.node(0).space(&name("work")).unwrap(), "/known").await == content);
    let address = pool.address(0);
    pool.kill(0).await;
    pool.kill(1).await;
    put_into(&theirs, "/beside", &content).await.unwrap();
    assert!(read_when_named(&hers, "/beside").await == content);
    let listen = listens_at(&carol);
    drop((theirs, hers));
    bob.stop().await;
    carol.stop().await;
    drop(carol);
    pool.restart_at(0, address).await;
    pool.node(0).unshare(&name("work"), "bob").await.unwrap();
    let again = NodeConfig {
        listen: vec![listen],
        ..config(&carols_home, GRACE)
    };
    let carol = started(again).await;
    sees(&carol, 2).await;
    let hers = carol.space(&name("work")).unwrap();
    eventually("what does not count is dropped", || async {
        hers.stat(&"/beside".parse().unwrap()).await.is_err()
    })
    .await;
    assert!(read(&hers, "/known").await.unwrap() == content);
    put_into(&hers, "/after", &content).await.unwrap();
    let owners = pool.node(0).space(&name("work")).unwrap();
    assert!(read_when_named(&owners, "/after").await == content);
    assert!(owners.stat(&"/beside".parse().unwrap()).await.is_err());
    carol.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let (pool, others) = with_guests(&["bob"]).await;
    let owner = pool.node(0);
    owner.create_space(name("work")).await.unwrap();
    let check = |outcome: Result<_, NodeError>, fits: fn(&NodeError) -> bool| {
        let error = outcome.map(|_: LetIn| ()).unwrap_err();
        assert!(fits(&error), "{error:?}");
    };
    check(owner.share(&name("work"), "nobody", READ).await, |error| {
        matches!(error, NodeError::NoSuchPerson(_))
    });
    check(owner.share(&name("work"), "anna", READ).await, |error| {
        matches!(error, NodeError::WithYourself)
    });
    check(owner.share(&name("none"), "bob", READ).await, |error| {
        matches!(error, NodeError::NoSuchSpace(_))
    });
    check(owner.share(&SpaceName::home(), "bob", READ).await, |error| {
        matches!(error, NodeError::HomeIsPrivate)
    });
    // A grant that is over lets nobody in.
    let over = Access {
        until: Some(Timestamp::from_millis(1)),
        quota: None,
        ..WRITE
    };
    check(owner.share(&name("work"), "bob", over).await, |error| {
        matches!(error, NodeError::OverAlready)
    });
    assert!(others[0].0.offers().await.unwrap().is_empty());
    // What is said last holds, and what was written before stays.
    owner.share(&name("work"), "bob", WRITE).await.unwrap();
    let theirs = accepted(&others[0].0, "work").await;
    let content = bytes(8, 1_000);
    put_into(&theirs, "/file", &content).await.unwrap();
    owner.share(&name("work"), "bob", READ).await.unwrap();
    let members = owner.members(&name("work")).await.unwrap();
    assert_eq!((members.len(), members[1].access.may_write), (2, false));
    let refused = put_into(&theirs, "/more", &content).await;
    assert!(matches!(refused, Err(NodeError::ReadOnly)), "{refused:?}");
    assert!(read_when_named(&owner.space(&name("work")).unwrap(), "/file").await == content);
    // The end of an id does as well as a name.
    let bob = owner
        .people()
        .into_iter()
        .find(|person| person.called() == "bob")
        .unwrap();
    owner.share(&name("work"), &bob.user.short(), READ).await.unwrap();
    for (node, _) in others {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_may_lets_others_in_while_the_owner_is_away_and_they_are_out_together() {
    let (mut pool, others) = with_guests(&["bob", "carol", "dave"]).await;
    let [bob, carol, dave] = [0, 1, 2].map(|at| &others[at].0);
    let work = name("work");
    pool.node(0).create_space(work.clone()).await.unwrap();
    put_into(&pool.node(0).space(&work).unwrap(), "/hers", b"from the beginning")
        .await
        .unwrap();
    let may_share = Access {
        may_share: true,
        ..WRITE
    };
    let member = pool.node(0).share(&work, "bob", may_share).await.unwrap().member;
    assert!(member.access.may_share && member.by.is_none());
    let his = accepted(bob, "work").await;
    read_when_named(&his, "/hers").await;
    assert!(
        bob.spaces(false)
            .await
            .unwrap()
            .iter()
            .any(|space| space.name == work && space.may_share)
    );
    for at in [0, 1] {
        pool.kill(at).await;
    }
    let member = bob.share(&work, "carol", WRITE).await.unwrap().member;
    let by = member.by.map(|by| by.called());
    assert_eq!((by.as_deref(), member.access.may_share), (Some("bob"), false));
    let carols = accepted(carol, "work").await;
    assert_eq!(read_when_named(&carols, "/hers").await, b"from the beginning");
    put_into(&carols, "/carols", b"counts").await.unwrap();
    assert_eq!(read_when_named(&his, "/carols").await, b"counts");
    // No more than that.
    let refused = [
        bob.share(&work, "dave", may_share).await,
        bob.share(&work, "carol", READ).await,
        bob.share(&work, "anna", READ).await,
        carol.share(&work, "dave", READ).await,
    ];
    assert!(
        matches!(
            &refused,
            [
                Err(NodeError::NotYoursToGive { .. }),
                Err(NodeError::IsIn(_)),
                Err(NodeError::IsIn(_)),
                Err(NodeError::MayNotShare(_))
            ]
        ),
        "{refused:?}"
    );
    let refused = bob.unshare(&work, "carol").await;
    assert!(matches!(refused, Err(NodeError::NotYourSpace(_))), "{refused:?}");
    for at in [0, 1] {
        pool.restart(at).await;
    }
    let anna = pool.node(0);
    let hers = anna.space(&work).unwrap();
    assert_eq!(read_when_named(&hers, "/carols").await, b"counts");
    let members = anna.members(&work).await.unwrap();
    let in_by: Vec<_> = members
        .iter()
        .map(|member| (member.person.called(), member.by.as_ref().map(Person::called)))
        .collect();
    let person = |name: &str, by: Option<&str>| (name.to_owned(), by.map(str::to_owned));
    assert_eq!(in_by.len(), 3);
    for one in [person("anna", None), person("bob", None), person("carol", Some("bob"))] {
        assert!(in_by.contains(&one), "{in_by:?}");
    }
    let log = anna.access_log(&work).await.unwrap();
    let by_bob = log.iter().filter(|event| {
        let is_bob = event.by.as_ref().is_some_and(|by| by.called() == "bob");
        is_bob && matches!(&event.what, AccessChange::LetIn { person, .. } if person.called() == "carol")
    });
    assert_eq!(by_bob.count(), 1, "{log:?}");
    // With other rights, whom he let in stays as far as those go; when he goes, she goes.
    let called = |people: &[Person]| people.iter().map(Person::called).collect::<Vec<_>>();
    let let_in = anna.share(&work, "bob", may_share).await.unwrap();
    assert!(let_in.out.is_empty() && let_in.only_read.is_empty(), "{let_in:?}");
    let reads = Access {
        may_share: true,
        ..READ
    };
    let let_in = anna.share(&work, "bob", reads).await.unwrap();
    assert_eq!(
        (let_in.out.len(), called(&let_in.only_read)),
        (0, vec!["carol".to_owned()])
    );
    anna.share(&work, "bob", may_share).await.unwrap();
    assert_eq!(anna.members(&work).await.unwrap().len(), 3);
    let out = |events: &[AccessEvent]| {
        let out = |event: &AccessEvent| match &event.what {
            AccessChange::TakenOut { person, .. } => Some(person.called()),
            _ => None,
        };
        events.iter().filter_map(out).collect::<BTreeSet<_>>()
    };
    assert!(out(&anna.access_log(&work).await.unwrap()).is_empty());
    let gone = anna.unshare(&work, "bob").await.unwrap();
    assert_eq!(called(&gone.with_them), ["carol"]);
    assert_eq!(anna.members(&work).await.unwrap().len(), 1);
    assert_eq!(
        out(&anna.access_log(&work).await.unwrap()),
        ["bob", "carol"].map(str::to_owned).into()
    );
    put_into(&hers, "/after", b"for nobody else").await.unwrap();
    for (node, space) in [(bob, &his), (carol, &carols)] {
        let is_out = || async {
            let put = Box::pin(put_into(space, "/late", b"late")).await;
            matches!(put, Err(NodeError::NotIn | NodeError::ReadOnly))
        };
        eventually("they hear of it", is_out).await;
        assert!(read(space, "/after").await.is_err());
        assert!(matches!(
            node.share(&work, "dave", READ).await,
            Err(NodeError::MayNotShare(_))
        ));
    }
    assert!(dave.offers().await.unwrap().is_empty());
    assert_eq!(read_when_named(&hers, "/carols").await, b"counts");
    assert!(read(&hers, "/late").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_time_is_over_has_no_key_to_what_comes_and_who_was_taken_out_stays_out() {
    let (pool, others) = with_guests(&["bob", "carol"]).await;
    let (anna, bob, work) = (pool.node(0), &others[0].0, name("work"));
    anna.create_space(work.clone()).await.unwrap();
    let hers = anna.space(&work).unwrap();
    put_into(&hers, "/before", b"while he may").await.unwrap();
    let records = || async { anna.verify(&work).await.unwrap().records };
    let before = records().await;
    // Long enough for him to take it.
    let until = Some(SystemClock.now() + Duration::from_secs(20));
    anna.share(&work, "bob", Access { until, ..WRITE }).await.unwrap();
    let his = accepted(bob, "work").await;
    read_when_named(&his, "/before").await;
    // After the grant.
    eventually("there is another key", || async { records().await > before + 1 }).await;
    assert_eq!(anna.members(&work).await.unwrap().len(), 1);
    put_into(&hers, "/after", b"for nobody else").await.unwrap();
    let refused = put_into(&his, "/late", b"late").await;
    assert!(
        matches!(refused, Err(NodeError::NotIn | NodeError::ReadOnly)),
        "{refused:?}"
    );
    assert!(read(&his, "/after").await.is_err());
    let unshared = anna.unshare(&work, "bob").await;
    assert!(matches!(unshared, Err(NodeError::NotShared(_))), "{unshared:?}");
    // Whom the owner takes out does not come back by another.
    anna.share(
        &work,
        "bob",
        Access {
            may_share: true,
            ..WRITE
        },
    )
    .await
    .unwrap();
    assert_eq!(bob.accept("work", None).await.unwrap().name, work);
    eventually("he knows", || async { bob.share(&work, "carol", READ).await.is_ok() }).await;
    eventually("she is in", || async { anna.members(&work).await.unwrap().len() == 3 }).await;
    anna.unshare(&work, "carol").await.unwrap();
    eventually("he knows that, too", || async {
        bob.members(&work).await.unwrap().len() == 2
    })
    .await;
    let refused = bob.share(&work, "carol", READ).await;
    assert!(matches!(refused, Err(NodeError::NotYoursToGive { .. })), "{refused:?}");
}
