//! One file that two machines change while they do not see each other: both versions are found, read, kept and let go of.

use crate::common::{Pool, bytes, eventually, put_into, read};
use potluck_node::{
    Conflict, NodeError, Path, RemoveOptions, RestoreOptions, Settling, Space, Version, VersionState, Which,
};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(3600);

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

async fn names(space: &Space, at: &str) -> Vec<String> {
    let listed = space.list(&path(at), None, 100).await.unwrap();
    listed.into_iter().map(|entry| entry.name.to_string()).collect()
}

/// The names of `/d`, read in pages of this size, as whoever lists a directory does.
async fn paged(space: &Space, limit: usize) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = space.list(&path("/d"), after.as_ref(), limit).await.unwrap();
        assert!(page.len() <= limit);
        let Some(last) = page.last() else { return all };
        after = Some(last.name.clone());
        all.extend(page.into_iter().map(|entry| entry.name.to_string()));
    }
}

async fn conflicts(space: &Space) -> Vec<Conflict> {
    space.conflicts(&path("/")).next().await.unwrap()
}

async fn read_version(space: &Space, at: &str, version: &Version) -> Vec<u8> {
    let which = Which::Version(version.id);
    let download = space.download_of(&path(at), which, None).await.unwrap();
    download.read_to_end().await.unwrap()
}

/// Two machines of one person, which both have `/d/report.odt` of before, and then each a version of its own, of these contents.
async fn apart(first: &[u8], second: &[u8]) -> Pool {
    let mut pool = Pool::of(2, GRACE).await;
    put_into(&pool.node(0).private(), "/d/report.odt", b"before")
        .await
        .unwrap();
    eventually("the other lists it", || async {
        pool.node(1).private().stat(&path("/d/report.odt")).await.is_ok()
    })
    .await;
    let addresses = [pool.address(0), pool.address(1)];
    pool.kill(1).await;
    put_into(&pool.node(0).private(), "/d/report.odt", first).await.unwrap();
    pool.kill(0).await;
    pool.restart_at(1, addresses[1].clone()).await;
    put_into(&pool.node(1).private(), "/d/report.odt", second)
        .await
        .unwrap();
    pool.restart_at(0, addresses[0].clone()).await;
    for i in 0..2 {
        eventually("both know both versions", || async {
            !conflicts(&pool.node(i).private()).await.is_empty()
        })
        .await;
    }
    pool
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_a_file_that_was_changed_apart_are_there() {
    let (first, second) = (bytes(1, 300_000), bytes(2, 400_000));
    let pool = apart(&first, &second).await;
    let (one, other) = (pool.node(0).private(), pool.node(1).private());
    let shown = names(&one, "/d").await;
    let [copy, original] = &shown[..] else {
        panic!("two are shown: {shown:?}");
    };
    assert_eq!(original, "report.odt");
    assert!(
        copy.starts_with("report (conflict, ") && copy.ends_with(").odt"),
        "{copy}"
    );
    for space in [&one, &other] {
        assert_eq!(names(space, "/d").await, shown, "they are shown alike everywhere");
        assert!(read(space, "/d/report.odt").await.unwrap() == second);
        assert!(read(space, &format!("/d/{copy}")).await.unwrap() == first);
        let found = conflicts(space).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, path("/d/report.odt"));
        let copies = found[0].versions.iter();
        let copies =
            copies.filter(|version| matches!(&version.state, VersionState::Conflict { name } if name.as_str() == copy));
        assert_eq!((copies.count(), found[0].versions.len()), (1, 2));
    }
    // A page ends with a name, whatever is shown beside it, and none is left out.
    for i in 0..3 {
        put_into(&one, &format!("/d/before-{i}"), b"").await.unwrap();
        put_into(&one, &format!("/d/sooner-{i}"), b"").await.unwrap();
    }
    let all = names(&one, "/d").await;
    assert_eq!(all.len(), 8);
    for limit in 2..=8 {
        assert_eq!(paged(&one, limit).await, all, "in pages of {limit}");
    }
    // Where not even two fit, the latest is shown.
    assert_eq!(paged(&one, 1).await.len(), 7);
    for i in 0..3 {
        for at in ["before", "sooner"] {
            let at = path(&format!("/d/{at}-{i}"));
            one.remove(&at, RemoveOptions::default()).await.unwrap();
        }
    }
    // A put over the file is about what has the name; the other stays.
    let third = bytes(3, 1_000);
    put_into(&one, "/d/report.odt", &third).await.unwrap();
    assert_eq!(names(&one, "/d").await, shown);
    // And one over the copy makes a file of it.
    put_into(&one, &format!("/d/{copy}"), b"edited").await.unwrap();
    assert!(conflicts(&one).await.is_empty());
    assert_eq!(names(&one, "/d").await, shown);
    assert_eq!(read(&one, &format!("/d/{copy}")).await.unwrap(), b"edited");
    assert!(read(&one, "/d/report.odt").await.unwrap() == third);
    // All that was is still to be had.
    let versions = one.versions(&path("/d/report.odt")).await.unwrap();
    assert_eq!(versions[0].state, VersionState::Latest);
    let mut contents = Vec::new();
    for version in &versions {
        contents.push(read_version(&one, "/d/report.odt", version).await);
    }
    for content in [&third[..], &second, &first, b"before"] {
        assert!(contents.iter().any(|there| there == content));
    }
    assert_eq!(contents.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_ends_when_one_is_kept_or_each_has_a_name() {
    let (first, second) = (bytes(1, 300_000), bytes(2, 400_000));
    let pool = apart(&first, &second).await;
    let (one, other) = (pool.node(0).private(), pool.node(1).private());
    let copy = format!("/d/{}", names(&one, "/d").await[0]);
    let refused = one.settle(&path("/d"), Settling::KeepThis).await;
    assert!(matches!(refused, Err(NodeError::NoConflict(_))), "{refused:?}");

    // The older one is kept: the other is in the trash.
    let settled = one.settle(&path(&copy), Settling::KeepThis).await.unwrap();
    assert_eq!((settled.names.len(), settled.removed), (1, 1));
    assert!(settled.until.is_some());
    assert_eq!(names(&one, "/d").await, ["report.odt"]);
    assert!(read(&one, "/d/report.odt").await.unwrap() == first);
    eventually("the other machine hears of it", || async {
        conflicts(&other).await.is_empty()
    })
    .await;
    assert!(read(&other, "/d/report.odt").await.unwrap() == first);

    // It is brought back by what names it, and then the first is a version of before.
    let versions = other.versions(&path("/d/report.odt")).await.unwrap();
    let mut let_go = None;
    for version in &versions {
        if read_version(&other, "/d/report.odt", version).await == second {
            let_go = Some(version.id);
        }
    }
    let options = |version| RestoreOptions {
        version,
        ..RestoreOptions::default()
    };
    let report = other.bring_back(&path("/d/report.odt"), options(let_go)).await.unwrap();
    assert_eq!((report.files, report.replaced), (1, 1));
    assert!(read(&other, "/d/report.odt").await.unwrap() == second);
    let latest = other.versions(&path("/d/report.odt")).await.unwrap()[0].id;
    let again = other
        .bring_back(&path("/d/report.odt"), options(Some(latest)))
        .await
        .unwrap();
    assert_eq!(again.files, 0, "it has that version");
    let nothing = other.bring_back(&path("/d/none"), options(let_go)).await;
    assert!(
        matches!(nothing, Err(NodeError::Tree(_) | NodeError::NoSuchVersion { .. })),
        "{nothing:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_moved_and_removed_like_files() {
    let (first, second) = (bytes(1, 300_000), bytes(2, 400_000));
    let pool = apart(&first, &second).await;
    let one = pool.node(0).private();
    let shown = names(&one, "/d").await;
    // What has the name is moved with what conflicts with it.
    one.rename(&path("/d/report.odt"), &path("/moved.odt")).await.unwrap();
    let moved = names(&one, "/").await;
    assert_eq!(moved.len(), 3, "{moved:?}");
    let copy = moved.iter().find(|name| name.contains("conflict")).unwrap();
    assert_ne!(copy, &shown[0]);
    // A copy is moved alone.
    one.rename(&path(&format!("/{copy}")), &path("/other.odt"))
        .await
        .unwrap();
    assert_eq!(names(&one, "/").await, ["d", "moved.odt", "other.odt"]);
    let contents = [
        read(&one, "/moved.odt").await.unwrap(),
        read(&one, "/other.odt").await.unwrap(),
    ];
    assert!(contents.contains(&first) && contents.contains(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_gets_a_name_and_the_copy_goes_alone() {
    let (first, second) = (bytes(1, 300_000), bytes(2, 400_000));
    let pool = apart(&first, &second).await;
    let one = pool.node(0).private();
    let shown = names(&one, "/d").await;
    let settled = one.settle(&path("/d/report.odt"), Settling::KeepAll).await.unwrap();
    assert_eq!((settled.names.len(), settled.removed), (2, 0));
    assert_eq!(
        names(&one, "/d").await,
        shown,
        "they have the names that they were shown under"
    );
    assert!(conflicts(&one).await.is_empty());
    one.remove(&path(&format!("/d/{}", shown[0])), RemoveOptions::default())
        .await
        .unwrap();
    assert_eq!(names(&one, "/d").await, ["report.odt"]);
    assert!(read(&one, "/d/report.odt").await.unwrap() == second);
}
