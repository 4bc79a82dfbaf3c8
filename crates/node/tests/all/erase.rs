//! Erasing for ever: no log has a key to it any more, on any machine, and all that lay beside it is there.

use crate::{
    access::Modified,
    common::{Pool, WRITE, bytes, eventually, key_in, name, put_into, read, read_when_named},
    fsck::{LOG, Table, faults},
    share::{accepted, with_guests},
};
use potluck_crypto::UserKeys;
use potluck_dag::{Content, Piece};
use potluck_node::{
    Erased, Fault, FileMeta, FsckOptions, LinkOptions, Node, NodeError, PutOptions, RemoveOptions, RestoreOptions,
    Says, Space, fsck,
};
use potluck_spaces::{Change, File, Keys, Logged, Tree, TreeError, Value};
use potluck_types::{Hash, Timestamp, from_canonical};
use serde_bytes::ByteBuf;
use std::{collections::BTreeSet, io::Cursor, path::Path as Folder, time::Duration};

const GRACE: Duration = Duration::from_secs(3600);
const STORED: Table = redb::TableDefinition::new("dedup");

fn path(text: &str) -> potluck_spaces::Path {
    text.parse().unwrap()
}

async fn put_together(space: &Space, files: &[(&str, Vec<u8>)]) {
    let mut upload = space.upload(PutOptions::default()).unwrap();
    let meta = FileMeta {
        modified: Timestamp::from_millis(1_000),
        executable: false,
    };
    for (at, content) in files {
        let content = Cursor::new(content.clone());
        upload.put_file(path(at), meta.clone(), content).await.unwrap();
    }
    upload.finish().await.unwrap();
}

/// Of a home that nobody uses: what contents its logs and its memory of what was stored have a key to, and what lies in the logs itself.
fn keys_in(home: &Folder, keys: &Keys, space: &Tree) -> BTreeSet<Hash> {
    let mut found = BTreeSet::new();
    let database = redb::ReadOnlyDatabase::open(home.join("meta.redb")).unwrap();
    let transaction = redb::ReadableDatabase::begin_read(&database).unwrap();
    let rows = |table: Table| -> Vec<Vec<u8>> {
        let table = transaction.open_table(table).unwrap();
        let rows = redb::ReadableTable::iter(&table).unwrap();
        rows.map(|row| row.unwrap().1.value().to_vec()).collect()
    };
    let mut take = |file: &File| {
        if file.content.is_empty() {
            return;
        }
        match from_canonical(&file.content).unwrap() {
            Content::Tree(tree) => found.insert(tree.root().sealed_id()),
            Content::Inline(bytes) => found.insert(Hash::of(&bytes)),
        };
    };
    for row in rows(LOG) {
        let (entry, _) = Logged::from_bytes(&row).unwrap().open().unwrap();
        each_file(&space.open(keys, &entry).unwrap(), &mut take);
    }
    for row in rows(STORED) {
        found.insert(from_canonical::<Piece>(&row).unwrap().sealed_id());
    }
    found
}

fn each_file(changes: &[Change], take: &mut impl FnMut(&File)) {
    for change in changes {
        match change {
            Change::Set {
                value: Some(Value::File(file)),
                ..
            }
            | Change::Recode { file, .. } => take(file),
            Change::Restate { changes, .. } => each_file(changes, take),
            _ => {}
        }
    }
}

/// Asks what it means, and erases.
async fn erase(space: &Space, called: &str, at: &str) -> Result<Erased, NodeError> {
    let known = space.erasable(&path(at)).await?.known;
    space.erase(&name(called), &path(at), known).await
}

fn is_everywhere(erased: &Erased) -> bool {
    erased.receipts.iter().all(|receipt| receipt.says == Says::Nothing)
}

/// Stops a machine, and looks what it has keys to.
async fn keys_at(pool: &mut Pool, i: usize) -> BTreeSet<Hash> {
    let space = Tree::of(pool.node(i).private().id());
    pool.kill(i).await;
    let home = &pool.members[i].home;
    let user = UserKeys::new(key_in(home, "user.key"));
    let database = home.path().join("meta.redb");
    eventually("the home is free", || async { redb::Database::open(&database).is_ok() }).await;
    keys_in(home.path(), &Keys::private(user.private_space_key()), &space)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_machine_has_a_key_to_what_was_erased_and_all_that_lay_beside_it_is_there() {
    let mut pool = Pool::of(3, GRACE).await;
    let small = |i: u64| bytes(i, 20_000);
    let space = pool.node(0).private();
    let files: Vec<_> = (0..6).map(|i| (format!("/d/{i}"), small(i))).collect();
    let files: Vec<_> = files
        .iter()
        .map(|(at, content)| (at.as_str(), content.clone()))
        .collect();
    put_together(&space, &files).await;
    put_into(&space, "/large", &bytes(10, 3_000_000)).await.unwrap();
    put_into(&space, "/tiny", b"a word").await.unwrap();
    drop(space);
    let before = keys_at(&mut pool, 0).await;
    assert!(before.len() >= 4, "{before:?}");
    pool.restart(0).await;
    pool.all_see_each_other().await;

    let space = pool.node(0).private();
    // Under other names, in a snapshot, in the trash, and overwritten.
    space.take_snapshot(None).await.unwrap();
    put_into(&space, "/tiny", b"a word more").await.unwrap();
    space.rename(&path("/tiny"), &path("/word")).await.unwrap();
    space.rename(&path("/d/3"), &path("/moved")).await.unwrap();
    put_into(&space, "/large", &bytes(11, 2_000_000)).await.unwrap();
    space.remove(&path("/d/0"), RemoveOptions::default()).await.unwrap();
    let told = space.erasable(&path("/d/0")).await.unwrap();
    assert_eq!((told.files, told.versions, told.stored_anew), (0, 1, 6));
    for (at, versions) in [("/d/0", 1), ("/large", 2), ("/word", 3), ("/moved", 2)] {
        let erased = erase(&space, "home", at).await.unwrap();
        assert!(is_everywhere(&erased), "{at}: {erased:?}");
        assert_eq!(erased.what.unwrap().versions, versions, "{at}");
        let again = space.erasable(&path(at)).await;
        assert!(
            matches!(again, Err(NodeError::Tree(TreeError::NotFound(_)))),
            "{again:?}"
        );
    }
    assert_eq!(pool.node(0).erasures().await.unwrap(), []);
    // From the snapshot nothing comes back of it.
    let which = RestoreOptions {
        at: Some(space.snapshots().await.unwrap()[0].at),
        ..RestoreOptions::default()
    };
    space.bring_back(&path("/"), which).await.unwrap();
    for at in ["/d/0", "/large", "/word", "/tiny", "/moved"] {
        assert!(read(&space, at).await.is_err(), "{at}");
    }
    // A machine that comes now has the rest, and so do the others.
    pool.add().await;
    for i in 0..4 {
        for at in [1, 2, 4, 5] {
            pool.holds(i, &format!("/d/{at}"), &small(at)).await;
        }
    }
    for i in [0, 3] {
        let verified = pool.node(i).verify(&name("home")).await.unwrap();
        assert_eq!(verified.problems, []);
    }
    drop(space);
    for i in 0..4 {
        let after = keys_at(&mut pool, i).await;
        let left: Vec<_> = before.intersection(&after).collect();
        assert!(left.is_empty(), "machine {i} has keys: {left:?}");
        // Whoever tells others something just now holds on to the home for a moment.
        let home = pool.members[i].home.path();
        let checked = || fsck(home, &FsckOptions::default(), |_| {});
        eventually("the home is given up", || async { checked().is_ok() }).await;
        let report = checked().unwrap();
        let found: Vec<_> = faults(&report)
            .into_iter()
            .filter(|(_, fault)| **fault != Fault::Exposed)
            .collect();
        assert_eq!(found, [], "machine {i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_away_drops_what_it_has_when_it_hears_of_it() {
    let mut pool = Pool::of(3, GRACE).await;
    let space = pool.node(0).private();
    put_together(&space, &[("/gone", bytes(1, 30_000)), ("/stays", bytes(2, 30_000))]).await;
    pool.holds(2, "/gone", &bytes(1, 30_000)).await;
    drop(space);
    let before = keys_at(&mut pool, 0).await;
    pool.restart(0).await;
    pool.all_see_each_other().await;
    let address = pool.address(2);
    let away = pool.node(2).identity().node;
    pool.kill(2).await;
    pool.are_away(0, 1).await;
    let space = pool.node(0).private();
    let erased = erase(&space, "home", "/gone").await.unwrap();
    let says: Vec<_> = erased
        .receipts
        .iter()
        .filter(|receipt| receipt.says != Says::Nothing)
        .collect();
    assert!(
        says.len() == 1 && says[0].machine == away && says[0].says == Says::Away,
        "{erased:?}"
    );
    assert_eq!(pool.node(0).erasures().await.unwrap().len(), 1);
    pool.restart_at(2, address).await;
    pool.all_see_each_other().await;
    eventually("it has heard of it", || async {
        let asked = pool.node(0).erasures().await.unwrap();
        asked.iter().all(is_everywhere)
    })
    .await;
    assert_eq!(
        pool.node(0).erasures().await.unwrap(),
        [],
        "it is remembered although all have heard of it"
    );
    pool.holds(2, "/stays", &bytes(2, 30_000)).await;
    drop(space);
    for i in 0..3 {
        assert!(keys_at(&mut pool, i).await.is_disjoint(&before), "machine {i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_showed_is_gone_with_it_and_the_same_content_elsewhere_stays() {
    let pool = Pool::of(2, GRACE).await;
    let space = pool.node(0).private();
    put_together(&space, &[("/d/gone", bytes(1, 30_000)), ("/d/stays", bytes(2, 30_000))]).await;
    let copy = bytes(3, 400_000);
    put_into(&space, "/d/twice", &copy).await.unwrap();
    put_into(&space, "/copy", &copy).await.unwrap();
    let link = pool
        .node(0)
        .link(&name("home"), &path("/d"), LinkOptions::default())
        .await
        .unwrap();
    for at in ["/d/gone", "/d/twice"] {
        let erased = erase(&space, "home", at).await.unwrap();
        assert!(is_everywhere(&erased), "{at}: {erased:?}");
        let stays = erased.what.unwrap().stays_at;
        assert_eq!(
            stays,
            if at == "/d/twice" {
                vec![path("/copy")]
            } else {
                Vec::new()
            }
        );
    }
    let linked = pool.node(1).open_link(&link.link.parse().unwrap(), None).await.unwrap();
    let listed = linked.list(&path("/"), None, 9).unwrap();
    let names: Vec<_> = listed.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["stays"]);
    let stays = linked.download(&path("/stays"), None).unwrap();
    assert!(stays.read_to_end().await.unwrap() == bytes(2, 30_000));
    assert!(read_when_named(&pool.node(1).private(), "/copy").await == copy);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_question_stays() {
    let pool = Pool::of(2, GRACE).await;
    let (space, other) = (pool.node(0).private(), pool.node(1).private());
    put_together(&space, &[("/d/gone", bytes(1, 30_000)), ("/d/too", b"too".to_vec())]).await;
    assert!(read_when_named(&other, "/d/gone").await == bytes(1, 30_000));
    let known = space.erasable(&path("/d")).await.unwrap().known;
    put_into(&other, "/d/later", &bytes(2, 30_000)).await.unwrap();
    put_into(&other, "/d/gone", b"another").await.unwrap();
    let erased = space.erase(&name("home"), &path("/d"), known).await.unwrap();
    assert_eq!(erased.what.unwrap().versions, 2);
    for space in [&space, &other] {
        eventually("it is gone", || async { read(space, "/d/too").await.is_err() }).await;
        assert!(read(space, "/d/later").await.unwrap() == bytes(2, 30_000));
        assert_eq!(read(space, "/d/gone").await.unwrap(), b"another");
    }
    erase(&space, "home", "/d").await.unwrap();
    assert!(matches!(
        space.stat(&path("/d")).await,
        Err(NodeError::Tree(TreeError::NotFound(_)))
    ));
}

fn is_refused(error: &NodeError) -> bool {
    matches!(error, NodeError::EraseOthers(_) | NodeError::ReadOnly)
}

/// Whoever writes in a space erases what they have written, and its owner all.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_erases_what_is_theirs_and_the_owner_all() {
    let (pool, mut others) = with_guests(&["bob"]).await;
    let anna = pool.node(0);
    anna.create_space(name("work")).await.unwrap();
    let space = anna.space(&name("work")).unwrap();
    put_into(&space, "/hers", &bytes(1, 40_000)).await.unwrap();
    anna.share(&name("work"), "bob", WRITE).await.unwrap();
    let (bob, home) = others.remove(0);
    let theirs = accepted(&bob, "work").await;
    assert!(read_when_named(&theirs, "/hers").await == bytes(1, 40_000));
    for at in ["/his", "/his-too"] {
        eventually("bob may write", || async {
            Box::pin(put_into(&theirs, at, &bytes(2, 40_000))).await.is_ok()
        })
        .await;
    }
    let refused = erase(&theirs, "work", "/hers").await.unwrap_err();
    assert!(is_refused(&refused), "{refused:?}");
    let erased = erase(&theirs, "work", "/his").await.unwrap();
    assert!(is_everywhere(&erased), "{erased:?}");
    read_when_named(&space, "/his-too").await;
    let erased = erase(&space, "work", "/his-too").await.unwrap();
    assert!(is_everywhere(&erased), "{erased:?}");
    eventually("bob hears of it", || async { read(&theirs, "/his-too").await.is_err() }).await;

    // A program that does not obey, with bob's key.
    let honest: [&Node; 2] = [anna, pool.node(1)];
    let id = space.id();
    drop(theirs);
    bob.stop().await;
    drop(bob);
    let modified = Modified::in_place_of(&home, &honest, id).await;
    let of = anna.identity().node;
    let hers = modified.log_of(of, of).await;
    assert!(!hers.is_empty());
    for victim in honest.map(|node| node.identity().node) {
        let notice = modified.erasing(of, 1);
        assert!(!modified.takes(victim, vec![ByteBuf::from(notice.to_bytes())]).await);
    }
    assert!(read(&space, "/hers").await.unwrap() == bytes(1, 40_000));
}
