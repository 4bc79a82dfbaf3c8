//! What was where, and when: also after it was brought back, moved, or put again.

use crate::common::{Pool, bytes, put_into, read};
use potluck_node::{
    Differing, FileMeta, NodeError, PutOptions, RemoveOptions, RestoreOptions, RestoreReport, Space, VersionState,
    Which,
};
use potluck_spaces::Path;
use potluck_types::{SpaceName, Timestamp};
use std::{io::Cursor, time::Duration};

const GRACE: Duration = Duration::from_secs(3600);

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

async fn as_it_was(space: &Space, of: &str, at: Timestamp) -> Result<RestoreReport, NodeError> {
    let options = RestoreOptions {
        at: Some(at),
        ..RestoreOptions::default()
    };
    space.bring_back(&path(of), options).await
}

/// When the latest version of a file was stored.
async fn stored(space: &Space, of: &str) -> Timestamp {
    space.versions(&path(of)).await.unwrap()[0].stored
}

async fn put_with_time(space: &Space, at: &str, content: &[u8], modified: u64) {
    let mut upload = space.upload(PutOptions::default()).unwrap();
    let meta = FileMeta {
        modified: Timestamp::from_millis(modified),
        executable: false,
    };
    upload
        .put_file(path(at), meta, Cursor::new(content.to_vec()))
        .await
        .unwrap();
    upload.finish().await.unwrap();
}

async fn remove_for_good(space: &Space, at: &str) {
    let options = RemoveOptions {
        recursive: false,
        now: true,
        confirmed: true,
    };
    space.remove(&path(at), options).await.unwrap();
}

/// How many files the trash lists.
async fn trash(space: &Space) -> usize {
    let mut listing = space.trash(&Path::root()).await.unwrap();
    let mut count = 0;
    loop {
        let page = listing.next().await.unwrap();
        if page.is_empty() {
            return count;
        }
        count += page.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_brought_back_was_there_then_and_is_there_now() {
    let pool = Pool::of(1, GRACE).await;
    let space = pool.node(0).private();
    let mut times = Vec::new();
    for content in [b"v1", b"v2", b"v3"] {
        put_into(&space, "/t", content).await.unwrap();
        times.push(stored(&space, "/t").await);
    }
    for (at, expected) in [(1, b"v2"), (0, b"v1"), (1, b"v2"), (2, b"v3")] {
        assert_eq!(as_it_was(&space, "/t", times[at]).await.unwrap().files, 1);
        assert_eq!(read(&space, "/t").await.unwrap(), expected);
        // Once more changes nothing.
        assert_eq!(as_it_was(&space, "/t", times[at]).await.unwrap().files, 0);
        put_into(&space, "/t", b"between").await.unwrap();
    }
    let versions = space.versions(&path("/t")).await.unwrap();
    for at in &times {
        assert!(versions.iter().any(|version| version.stored == *at), "{versions:?}");
    }
    // What was not there at all cannot be as it was.
    let before = Timestamp::from_millis(times[0].as_millis() - 1);
    let refused = as_it_was(&space, "/t", before).await;
    assert!(matches!(refused, Err(NodeError::NoSuchVersion { .. })), "{refused:?}");
    assert_eq!(read(&space, "/t").await.unwrap(), b"between");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_again_as_it_is_changes_nothing() {
    let pool = Pool::of(1, GRACE).await;
    let space = pool.node(0).private();
    let large = bytes(1, 3_000_000);
    put_with_time(&space, "/d/f", b"one", 1).await;
    put_with_time(&space, "/d/packed", &bytes(2, 20_000), 1).await;
    put_with_time(&space, "/d/large", &large, 1).await;
    let then = stored(&space, "/d/large").await;
    for modified in [1, 2] {
        put_with_time(&space, "/d/f", b"one", modified).await;
        put_with_time(&space, "/d/packed", &bytes(2, 20_000), modified).await;
        put_with_time(&space, "/d/large", &large, modified).await;
        // Of what only looks newer it is known.
        let versions = space.versions(&path("/d/packed")).await.unwrap();
        assert_eq!(versions.len() as u64, modified, "{versions:?}");
        let is_put_again = |state: &VersionState| {
            matches!(
                state,
                VersionState::Replaced {
                    moved: true,
                    overwritten: true,
                    ..
                }
            )
        };
        assert!(versions[1..].iter().all(|version| is_put_again(&version.state)));
        assert_eq!(trash(&space).await, 0);
        let differences = space.differences(&Path::root(), then).await.unwrap();
        let is_changed = |modified| if modified == 1 { 0 } else { 3 };
        assert!(differences.len() <= is_changed(modified), "{differences:?}");
        assert!(
            differences.iter().all(|other| other.what == Differing::Changed),
            "{differences:?}"
        );
    }
    // Each of them can be read, wherever the nodes of its manifest lie by now.
    for modified in [3, 3, 4] {
        put_with_time(&space, "/d/large", &large, modified).await;
    }
    let versions = space.versions(&path("/d/large")).await.unwrap();
    assert_eq!(versions.len(), 4, "{versions:?}");
    for version in &versions {
        let which = Which::Version(version.id);
        let mut download = space.download_of(&path("/d/large"), which, None).await.unwrap();
        let mut read = Vec::new();
        while let Some(part) = download.next().await {
            read.extend_from_slice(&part.unwrap());
        }
        assert!(read == large);
    }
    put_with_time(&space, "/d/f", b"two", 3).await;
    let report = as_it_was(&space, "/d", then).await.unwrap();
    assert!(report.files >= 1, "{report:?}");
    assert_eq!(read(&space, "/d/f").await.unwrap(), b"one");
    assert_eq!(read(&space, "/d/large").await.unwrap(), large);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_is_known_where_it_was_and_counts_once() {
    let pool = Pool::of(1, GRACE).await;
    let (node, space) = (pool.node(0), pool.node(0).private());
    let content = bytes(3, 300_000);
    put_into(&space, "/d/q", &content).await.unwrap();
    put_into(&space, "/d/small", b"small").await.unwrap();
    let then = stored(&space, "/d/small").await;
    space.rename(&path("/d/q"), &path("/d/q2")).await.unwrap();
    space.rename(&path("/d/small"), &path("/small")).await.unwrap();
    let counted = node.space_info(&SpaceName::home()).await.unwrap();
    assert_eq!((counted.files, counted.bytes, counted.trash.files), (2, 300_005, 0));
    assert_eq!(trash(&space).await, 0);
    let differences = space.differences(&Path::root(), then).await.unwrap();
    let is_moved = |what: &Differing| matches!(what, Differing::Moved { .. });
    assert!(
        differences.len() == 2 && differences.iter().all(|other| is_moved(&other.what)),
        "{differences:?}"
    );
    // What was removed below a directory comes back without what was moved out of it.
    assert!(space.bring_back(&path("/d"), RestoreOptions::default()).await.is_err());
    assert_eq!(as_it_was(&space, "/d", then).await.unwrap().files, 2);
    for (at, expected) in [
        ("/d/q", &content[..]),
        ("/d/q2", &content),
        ("/d/small", b"small"),
        ("/small", b"small"),
    ] {
        assert_eq!(read(&space, at).await.unwrap(), expected, "{at}");
    }
    // What is removed for good under its last name is gone, wherever it was before.
    space.rename(&path("/d/q"), &path("/d/q3")).await.unwrap();
    for at in ["/d/q2", "/d/q3"] {
        remove_for_good(&space, at).await;
    }
    let refused = as_it_was(&space, "/d/q", then).await;
    assert!(matches!(refused, Err(NodeError::NoSuchVersion { .. })), "{refused:?}");
    // What is small has no stripes, and is in the entries of the log.
    for at in ["/d/small", "/small"] {
        remove_for_good(&space, at).await;
    }
    assert!(as_it_was(&space, "/d/small", then).await.is_err());
}
