//! Links: whoever has one reads what it leads to, and nothing else.

use crate::common::{Pool, WRITE, bytes, eventually, name, put_into, sees, within};
use potluck_crypto::Link;
use potluck_node::{Kind, LinkError, LinkOptions, Linked, Node, NodeError, RemoveOptions};
use potluck_spaces::{Path, TreeError};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(3600);

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

async fn open(node: &Node, link: &str) -> Result<Linked, LinkError> {
    match node.open_link(&link.parse().unwrap(), None).await {
        Ok(linked) => Ok(linked),
        Err(NodeError::Link(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

async fn read(linked: &Linked, at: &str) -> Result<Vec<u8>, NodeError> {
    linked.download(&path(at), None)?.read_to_end().await
}

fn names(linked: &Linked, at: &str) -> Vec<String> {
    let listed = linked.list(&path(at), None, 100).unwrap();
    listed.into_iter().map(|entry| entry.name.to_string()).collect()
}

async fn made(node: &Node, at: &str, options: LinkOptions) -> String {
    node.link(&name("photos"), &path(at), options).await.unwrap().link
}

/// Anna's pool, with a space of hers, and Eve, who is in the pool and not in the space.
async fn with_photos(nodes: usize) -> (Pool, Node, tempfile::TempDir) {
    let pool = Pool::of(nodes, GRACE).await;
    let (eve, home) = pool.guest().await;
    sees(&eve, nodes + 1).await;
    let anna = pool.node(0);
    anna.create_space(name("photos")).await.unwrap();
    let space = anna.space(&name("photos")).unwrap();
    for (at, content) in [
        ("/2026/trip/small", b"small".to_vec()),
        ("/2026/trip/sea/large", bytes(1, 700_000)),
        ("/2026/private", b"private".to_vec()),
    ] {
        put_into(&space, at, &content).await.unwrap();
    }
    (pool, eve, home)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_link_reads_what_it_leads_to_and_what_comes_there() {
    let (pool, eve, _home) = with_photos(3).await;
    let anna = pool.node(0);
    let space = anna.space(&name("photos")).unwrap();
    let link = made(anna, "/2026/trip", LinkOptions::default()).await;
    let linked = open(&eve, &link).await.unwrap();
    let content = linked.content();
    assert_eq!((content.name.as_str(), content.is_file), ("trip", false));
    assert_eq!((content.files, content.bytes), (2, 700_005));
    assert_eq!(names(&linked, "/"), ["sea", "small"]);
    assert_eq!(names(&linked, "/sea"), ["large"]);
    assert_eq!(read(&linked, "/small").await.unwrap(), b"small");
    assert_eq!(read(&linked, "/sea/large").await.unwrap(), bytes(1, 700_000));
    let part = linked.download(&path("/sea/large"), Some(300_000..300_010)).unwrap();
    assert_eq!(part.read_to_end().await.unwrap(), bytes(1, 700_000)[300_000..300_010]);
    for beyond in ["/private", "/2026/private", "/2026"] {
        assert!(matches!(
            read(&linked, beyond).await,
            Err(NodeError::Tree(TreeError::NotFound(_)))
        ));
    }
    assert!(matches!(
        read(&linked, "/sea").await,
        Err(NodeError::Tree(TreeError::IsADirectory(_)))
    ));
    assert!(matches!(
        linked.list(&path("/small"), None, 9),
        Err(NodeError::Tree(TreeError::NotADirectory(_)))
    ));
    // She is no nearer to the space than she was.
    assert!(eve.offers().await.unwrap().is_empty() && eve.space(&name("photos")).is_err());
    // What comes there is seen, also where the directory has gone, by a machine that opens the link then.
    put_into(&space, "/2026/trip/later", b"later").await.unwrap();
    space.rename(&path("/2026/trip"), &path("/journey")).await.unwrap();
    space
        .remove(&path("/journey/small"), RemoveOptions::default())
        .await
        .unwrap();
    eventually("the link shows what there is now", || async {
        let linked = open(&eve, &link).await.unwrap();
        linked.content().name.as_str() == "journey" && names(&linked, "/") == ["later", "sea"]
    })
    .await;
    let linked = open(&eve, &link).await.unwrap();
    assert_eq!(read(&linked, "/later").await.unwrap(), b"later");
    // What it leads to is removed.
    let all = RemoveOptions {
        recursive: true,
        ..RemoveOptions::default()
    };
    space.remove(&path("/journey"), all).await.unwrap();
    eventually("what the link leads to is gone", || async {
        matches!(open(&eve, &link).await, Err(LinkError::Gone(called)) if called == "journey")
    })
    .await;
    // What links show counts as no file, and conflicts with nothing.
    let info = anna.space_info(&name("photos")).await.unwrap();
    assert_eq!((info.files, anna.status().await.unwrap().conflicts), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_file_shows_its_latest_version() {
    let (pool, eve, _home) = with_photos(2).await;
    let anna = pool.node(0);
    let space = anna.space(&name("photos")).unwrap();
    let link = made(anna, "/2026/private", LinkOptions::default()).await;
    let linked = open(&eve, &link).await.unwrap();
    assert!(linked.content().is_file);
    let entry = linked.stat(&path("/")).unwrap().entry;
    assert_eq!((entry.name.as_str(), entry.kind, entry.len), ("private", Kind::File, 7));
    assert_eq!(read(&linked, "/").await.unwrap(), b"private");
    put_into(&space, "/2026/private", b"another").await.unwrap();
    eventually("the link shows the latest version", || async {
        read(&open(&eve, &link).await.unwrap(), "/").await.unwrap() == b"another"
    })
    .await;
    // A whole space can be linked, and none that is not there.
    let all = open(&eve, &made(anna, "/", LinkOptions::default()).await)
        .await
        .unwrap();
    assert_eq!((all.content().name.as_str(), all.content().files), ("photos", 3));
    let missing = anna.link(&name("photos"), &path("/none"), LinkOptions::default()).await;
    assert!(matches!(missing, Err(NodeError::Tree(TreeError::NotFound(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_ended_opens_nothing() {
    let (pool, eve, _home) = with_photos(2).await;
    let anna = pool.node(0);
    let link = made(anna, "/2026/trip", LinkOptions::default()).await;
    open(&eve, &link).await.unwrap();
    let infos = anna.links(&name("photos")).await.unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(
        (infos[0].path.as_deref(), infos[0].link.as_deref()),
        (Some("/2026/trip"), Some(&*link))
    );
    assert!(matches!(
        anna.revoke_link("zzzz").await,
        Err(NodeError::Link(LinkError::NoSuchLink(_)))
    ));
    anna.revoke_link(&infos[0].id[..8]).await.unwrap();
    assert!(matches!(open(&eve, &link).await, Err(LinkError::Revoked)));
    assert!(anna.links(&name("photos")).await.unwrap().is_empty());
    // What it showed is let go of.
    let before = link.parse::<Link>().unwrap();
    assert!(matches!(
        anna.revoke_link(&before.to_string()).await,
        Err(NodeError::Link(_))
    ));
    // One whose time is over.
    let soon = potluck_types::Clock::now(&potluck_types::SystemClock) + Duration::from_millis(1500);
    let options = LinkOptions {
        until: Some(soon),
        ..LinkOptions::default()
    };
    let link = made(anna, "/2026/trip", options).await;
    open(&eve, &link).await.unwrap();
    eventually("the link ends by itself", || async {
        matches!(open(&eve, &link).await, Err(LinkError::Expired(_) | LinkError::Revoked))
    })
    .await;
    let over = LinkOptions {
        until: Some(soon),
        ..LinkOptions::default()
    };
    let over = anna.link(&name("photos"), &path("/"), over).await;
    assert!(matches!(over, Err(NodeError::Link(LinkError::Expired(_)))));
    // One of another pool, and one that nobody made.
    let (other, _other_home) = Pool::of(1, GRACE).await.guest().await;
    assert!(matches!(open(&other, &link).await, Err(LinkError::OtherPool)));
    let pool_id = anna.identity().pool;
    let guessed = Link::generate(pool_id, before.space, false, &potluck_types::SystemEntropy);
    assert!(matches!(
        open(&eve, &guessed.to_string()).await,
        Err(LinkError::Unknown)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_needed_where_there_is_one() {
    let (pool, eve, _home) = with_photos(2).await;
    let options = LinkOptions {
        password: Some("open sesame".to_owned()),
        ..LinkOptions::default()
    };
    let link: Link = made(pool.node(0), "/2026", options).await.parse().unwrap();
    for (password, fails) in [(None, "needs"), (Some("sesame"), "wrong")] {
        let error = eve.open_link(&link, password).await.unwrap_err();
        assert!(error.to_string().contains(fails), "{error}");
    }
    let linked = eve.open_link(&link, Some("open sesame")).await.unwrap();
    assert_eq!(linked.content().files, 3);
    // That it was opened helps nobody who does not know it.
    assert!(eve.open_link(&link, Some("sesame")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_counted_by_the_machine_that_made_the_link() {
    let (mut pool, eve, _home) = with_photos(3).await;
    let (fay, _home) = pool.guest().await;
    sees(&fay, 5).await;
    let options = LinkOptions {
        readers: Some(1),
        ..LinkOptions::default()
    };
    let link = made(pool.node(0), "/2026/trip", options).await;
    open(&eve, &link).await.unwrap();
    assert!(matches!(open(&fay, &link).await, Err(LinkError::UsedUp)));
    // Who was counted is not counted again.
    put_into(&pool.node(0).space(&name("photos")).unwrap(), "/2026/trip/later", b"x")
        .await
        .unwrap();
    eventually("the link shows what has come", || async {
        open(&eve, &link).await.unwrap().content().files == 3
    })
    .await;
    let info = pool.node(0).links(&name("photos")).await.unwrap().remove(0);
    assert_eq!((info.readers, info.readers_max), (Some(1), Some(1)));
    // The count is on disk: it outlasts a crash.
    pool.kill(0).await;
    assert!(matches!(open(&fay, &link).await, Err(LinkError::NotCounted { .. })));
    pool.restart(0).await;
    sees(&fay, 5).await;
    assert!(matches!(open(&fay, &link).await, Err(LinkError::UsedUp)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_while_the_machines_of_who_made_it_are_away() {
    let (mut pool, _eve, _home) = with_photos(1).await;
    // Others of the pool, who keep what the space needs.
    let (bob, _bobs) = pool.guest().await;
    let (carol, _carols) = pool.guest().await;
    let (fay, _fays) = pool.guest().await;
    sees(&fay, 5).await;
    let anna = pool.node(0);
    sees(anna, 5).await;
    let space = anna.space(&name("photos")).unwrap();
    put_into(&space, "/2026/trip/more", &bytes(2, 50_000)).await.unwrap();
    let link = made(anna, "/2026/trip", LinkOptions::default()).await;
    within("all is whole", async {
        eventually("nothing is endangered", || async {
            let health = anna.status().await.unwrap().health;
            health.endangered == 0 && health.recoding == 0 && health.stripes() > 0
        })
        .await;
    })
    .await;
    pool.kill(0).await;
    for node in [&bob, &carol, &fay] {
        let linked = open(node, &link).await.unwrap();
        assert_eq!(read(&linked, "/more").await.unwrap(), bytes(2, 50_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_who_is_taken_out_of_the_space_end() {
    let (pool, eve, _home) = with_photos(2).await;
    let anna = pool.node(0);
    let (bob, _bobs) = pool.guest().await;
    sees(&bob, 4).await;
    sees(anna, 4).await;
    let who = bob.identity().user.to_string();
    anna.share(&name("photos"), &who, WRITE).await.unwrap();
    eventually("the offer arrives", || async {
        !bob.offers().await.unwrap().is_empty()
    })
    .await;
    bob.accept("photos", None).await.unwrap();
    eventually("bob sees the files", || async {
        bob.space(&name("photos"))
            .unwrap()
            .stat(&path("/2026/trip"))
            .await
            .is_ok()
    })
    .await;
    let his = made(&bob, "/2026/trip", LinkOptions::default()).await;
    let hers = made(anna, "/2026/trip", LinkOptions::default()).await;
    for link in [&his, &hers] {
        open(&eve, link).await.unwrap();
    }
    // Each sees both, and the text of their own.
    eventually("both know of both", || async {
        anna.links(&name("photos")).await.unwrap().len() == 2
    })
    .await;
    let infos = anna.links(&name("photos")).await.unwrap();
    assert_eq!(infos.iter().filter(|info| info.link.is_some()).count(), 1);
    assert_eq!(anna.unshare(&name("photos"), &who).await.unwrap().links, 1);
    assert!(matches!(open(&eve, &his).await, Err(LinkError::Revoked)));
    open(&eve, &hers).await.unwrap();
    // A space that is gone shows nothing.
    let gone = RemoveOptions {
        now: true,
        confirmed: true,
        ..RemoveOptions::default()
    };
    anna.remove_space(&name("photos"), gone).await.unwrap();
    assert!(matches!(open(&eve, &hers).await, Err(LinkError::Revoked)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_link_outlasts_a_crash_of_its_maker() {
    let (mut pool, eve, _home) = with_photos(2).await;
    let link = made(pool.node(0), "/2026/trip", LinkOptions::default()).await;
    pool.kill(0).await;
    pool.restart(0).await;
    sees(&eve, 3).await;
    assert_eq!(open(&eve, &link).await.unwrap().content().files, 2);
    let space = pool.node(0).space(&name("photos")).unwrap();
    put_into(&space, "/2026/trip/after", b"after").await.unwrap();
    eventually("the link shows what came after the crash", || async {
        open(&eve, &link).await.unwrap().content().files == 3
    })
    .await;
}
