//! What is told of a space's history, and whether anybody has changed it.

use crate::{
    common::{Pool, READ, WRITE, bytes, config, eventually, name, put, put_into, started},
    fsck::{LOG, damage_row},
    share::{accepted, with_guests},
};
use potluck_node::{AccessChange, Has, LinkOptions, Node, Verified};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(3600);

/// Of each change what kind it is, whom it is about, and who did it; the first first.
async fn access(node: &Node, space: &str) -> Vec<(&'static str, String, String)> {
    let mut events = node.access_log(&name(space)).await.unwrap();
    events.reverse();
    let told = events.into_iter().map(|event| {
        let (kind, about) = match event.what {
            AccessChange::Founded => ("founded", String::new()),
            AccessChange::LetIn { person, may_write, .. } => {
                (if may_write { "writes" } else { "reads" }, person.called())
            }
            AccessChange::TakenOut { person, .. } => ("out", person.called()),
            AccessChange::LinkMade { path, .. } => ("link", path.unwrap_or_default()),
            AccessChange::LinkEnded { .. } => ("ended", String::new()),
            AccessChange::Confined { .. } => ("regions", String::new()),
            AccessChange::KeyReplaced => ("key", String::new()),
            AccessChange::MachinesLost { .. } => ("lost", String::new()),
        };
        (kind, about, event.by.map_or(String::new(), |by| by.called()))
    });
    told.collect()
}

fn is_sound(verified: &Verified) -> bool {
    verified.problems.is_empty() && verified.compared.iter().all(|compared| compared.has == Has::Same)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_read_is_told_alike_to_all_and_so_is_the_history() {
    let (pool, others) = with_guests(&["bob", "carol"]).await;
    let (anna, bob) = (pool.node(0), &others[0].0);
    anna.create_space(name("work")).await.unwrap();
    let space = anna.space(&name("work")).unwrap();
    put_into(&space, "/report", &bytes(1, 300_000)).await.unwrap();
    anna.share(&name("work"), "bob", READ).await.unwrap();
    let theirs = accepted(bob, "work").await;
    // Other rights, which is no leaving.
    anna.share(&name("work"), "bob", WRITE).await.unwrap();
    eventually("bob may write", || async {
        Box::pin(put_into(&theirs, "/his", b"words")).await.is_ok()
    })
    .await;
    anna.share(&name("work"), "bob", READ).await.unwrap();
    anna.share(&name("work"), "bob", WRITE).await.unwrap();
    anna.share(&name("work"), "carol", READ).await.unwrap();
    let report = "/report".parse().unwrap();
    anna.link(&name("work"), &report, LinkOptions::default()).await.unwrap();
    anna.unshare(&name("work"), "carol").await.unwrap();

    let told = [
        ("founded", "", "anna"),
        ("reads", "bob", "anna"),
        ("writes", "bob", "anna"),
        ("reads", "bob", "anna"),
        ("writes", "bob", "anna"),
        ("reads", "carol", "anna"),
        ("link", "/report", "anna"),
        ("out", "carol", "anna"),
    ];
    let told: Vec<_> = told
        .map(|(kind, about, by)| (kind, about.to_owned(), by.to_owned()))
        .into();
    for node in [anna, bob] {
        eventually("it is told alike", || async { access(node, "work").await == told }).await;
    }
    // The same history for everybody, by one short text.
    eventually("all have the same", || async {
        let (ours, theirs) = (
            anna.verify(&name("work")).await.unwrap(),
            bob.verify(&name("work")).await.unwrap(),
        );
        is_sound(&ours) && is_sound(&theirs) && ours.digest == theirs.digest && ours.machines.len() == 2
    })
    .await;
    let before = anna.verify(&name("work")).await.unwrap();
    put_into(&space, "/later", b"more").await.unwrap();
    let after = anna.verify(&name("work")).await.unwrap();
    assert!(after.digest != before.digest && after.entries > before.entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_changed_is_found() {
    let mut pool = Pool::of(1, GRACE).await;
    for i in 0..4 {
        put(pool.node(0), &format!("/{i}"), b"a few words").await.unwrap();
    }
    let sound = pool.node(0).verify(&name("home")).await.unwrap();
    assert!(is_sound(&sound) && sound.entries >= 4 && sound.problems_count == 0);
    pool.kill(0).await;
    let home = &pool.members[0].home;
    // Waits until the node has let go of the home.
    started(config(home, GRACE)).await.stop().await;
    eventually("the home is free", || async {
        redb::Database::open(home.path().join("meta.redb")).is_ok()
    })
    .await;
    damage_row(home.path(), LOG, 1, false);
    let node = started(config(home, GRACE)).await;
    let found = node.verify(&name("home")).await.unwrap();
    let told: Vec<_> = found
        .problems
        .iter()
        .map(|problem| (problem.seq, &*problem.what))
        .collect();
    assert_eq!(told, [(Some(2), "what it says is not what was signed")]);
    assert_eq!((found.entries, found.problems_count), (sound.entries, 1));
}
