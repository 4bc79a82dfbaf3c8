//! Homes that are damaged in every way that a disk, a person or a crash can damage one: what is wrong is told, a check changes nothing, and what can be
//! repaired is.

use crate::common::{Pool, bytes, config, eventually, put};
use potluck_node::{
    Fault, Finding, FsckOptions, FsckReport, HomeError, InviteOptions, Node, RemoveOptions, StartError, fsck,
};
use redb::{ReadableTable, TableDefinition};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

const GRACE: Duration = Duration::from_secs(3600);

pub(crate) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// As a node makes it; a test's folder is open to all.
fn close(home: &Path) {
    fs::set_permissions(home, fs::Permissions::from_mode(0o700)).unwrap();
}

/// A home in which files were put, replaced and removed, and on which no node runs any more.
async fn used() -> Pool {
    let mut pool = Pool::of(1, GRACE).await;
    close(pool.members[0].home.path());
    for number in 0..12 {
        pool.put(0, &format!("/photos/{number}"), &bytes(number, 300_000)).await;
    }
    pool.put(0, "/photos/3", &bytes(99, 5000)).await;
    pool.put(0, "/large", &bytes(77, 3_000_000)).await;
    let at_once = RemoveOptions {
        now: true,
        ..RemoveOptions::default()
    };
    pool.node(0)
        .private()
        .remove(&"/photos/4".parse().unwrap(), at_once)
        .await
        .unwrap();
    pool.node(0).sweep(Duration::ZERO).await.unwrap();
    pool.kill(0).await;
    // Waits until the node has let go of the home.
    check(pool.members[0].home.path(), false);
    pool
}

fn files(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), (mode, fs::read(&path).unwrap()));
        }
    }
    found
}

fn check(home: &Path, repair: bool) -> FsckReport {
    let options = FsckOptions {
        repair,
        ..FsckOptions::default()
    };
    let mut last = 0;
    let report = fsck(home, &options, |at| {
        assert!(
            at.bytes >= potluck_types::ByteSize(last) && at.bytes <= at.total,
            "{at:?}"
        );
        last = at.bytes.0;
    });
    report.unwrap()
}

pub(crate) fn faults(report: &FsckReport) -> Vec<(&str, &Fault)> {
    let findings = report.findings.iter();
    findings.map(|finding| (&*finding.place, &finding.fault)).collect()
}

/// The one finding that there is of a home, which a check leaves as it is.
#[track_caller]
fn only(home: &Path) -> Finding {
    let before = files(home);
    let report = check(home, false);
    assert!(files(home) == before, "the check changed something");
    assert!(report.findings.len() == 1, "{:?}", report.findings);
    report.findings.into_iter().next().unwrap()
}

/// Repairs a home with one finding; nothing is wrong afterwards.
#[track_caller]
fn mended(home: &Path) -> Fault {
    let finding = only(home);
    assert!(finding.fault.repair().is_some() && !finding.is_repaired);
    let report = check(home, true);
    assert!(report.findings.iter().all(|finding| finding.is_repaired), "{report:?}");
    assert_eq!(faults(&check(home, false)), []);
    finding.fault
}

fn database(home: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(home.join("meta.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

pub(crate) const LOG: Table = TableDefinition::new("space-log");

/// Flips a bit in the last of some rows of a table, or removes it.
pub(crate) fn damage_row(home: &Path, table: Table, at: usize, remove: bool) {
    database(home, |transaction| {
        let mut table = transaction.open_table(table).unwrap();
        let (key, mut value) = {
            let row = table.iter().unwrap().nth(at).unwrap().unwrap();
            (row.0.value().to_vec(), row.1.value().to_vec())
        };
        if remove {
            table.remove(&*key).unwrap();
        } else {
            *value.last_mut().unwrap() ^= 1;
            table.insert(&*key, &*value).unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_was_used_is_sound() {
    let mut pool = used().await;
    let home = pool.members[0].home.path().to_owned();
    let before = files(&home);
    let report = check(&home, false);
    assert_eq!(faults(&report), []);
    assert!(files(&home) == before, "the check changed something");
    assert!(report.records >= 2 && report.entries >= 14 && report.shards >= 12 && report.bytes.0 > 6_000_000);
    assert_eq!(faults(&check(&home, true)), []);
    pool.restart(0).await;
    pool.holds(0, "/photos/5", &bytes(5, 300_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_in_use_and_a_folder_that_is_none_are_refused() {
    let pool = Pool::of(1, GRACE).await;
    let refused = tokio::task::spawn_blocking({
        let home = pool.members[0].home.path().to_owned();
        move || fsck(&home, &FsckOptions::default(), |_| {})
    });
    assert!(matches!(refused.await.unwrap(), Err(HomeError::Locked { .. })));
    let home = pool.members[0].home.path();
    fs::remove_file(home.join("lock")).unwrap();
    let refused = fsck(home, &FsckOptions::default(), |_| {});
    assert!(
        matches!(refused, Err(HomeError::Locked { .. })),
        "the store is in use all the same"
    );
    let empty = tempfile::tempdir().unwrap();
    for folder in [empty.path(), &empty.path().join("none")] {
        let refused = fsck(folder, &FsckOptions::default(), |_| {});
        assert!(matches!(refused, Err(HomeError::Empty { .. })));
    }
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_home_are_put_right() {
    let pool = used().await;
    let home = pool.members[0].home.path();
    let mode = |name: &str| fs::metadata(home.join(name)).unwrap().permissions().mode() & 0o777;
    let set_mode = |name: &str, mode| fs::set_permissions(home.join(name), fs::Permissions::from_mode(mode)).unwrap();

    set_mode("node.key", 0o644);
    assert_eq!(mended(home), Fault::Exposed);
    assert_eq!(mode("node.key"), 0o600);
    set_mode(".", 0o755);
    assert_eq!(mended(home), Fault::Exposed);
    assert_eq!(mode("."), 0o700);

    fs::write(home.join("notes"), "mine").unwrap();
    assert_eq!(mended(home), Fault::Strange);
    assert_eq!(fs::read(home.join("lost+found/notes")).unwrap(), b"mine");
    fs::write(home.join("notes"), "other").unwrap();
    assert_eq!(mended(home), Fault::Strange);
    assert_eq!(fs::read(home.join("lost+found/notes")).unwrap(), b"mine");
    assert_eq!(fs::read(home.join("lost+found/notes.1")).unwrap(), b"other");

    fs::write(home.join("node.key.new"), "half").unwrap();
    assert_eq!(mended(home), Fault::LeftOver);
    assert!(
        !home.join("lost+found/node.key.new").exists(),
        "the key itself is whole"
    );

    fs::remove_file(home.join("pool")).unwrap();
    assert_eq!(mended(home), Fault::OtherPool);
    fs::write(home.join("pool"), "nonsense\n").unwrap();
    assert_eq!(mended(home), Fault::OtherPool);

    fs::write(home.join("meta.reserve"), "short").unwrap();
    assert_eq!(mended(home), Fault::NoReserve);
    fs::remove_file(home.join("store/reserve")).unwrap();
    assert_eq!(mended(home), Fault::NoReserve);

    fs::write(home.join("store/STORE.new"), "half").unwrap();
    assert_eq!(mended(home), Fault::LeftOver);
    fs::write(home.join("store/copy of 0000000001.pack"), "mine").unwrap();
    assert_eq!(mended(home), Fault::Strange);
    assert!(home.join("lost+found/copy of 0000000001.pack").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_gone_are_not_made_up() {
    let pool = used().await;
    let home = pool.members[0].home.path();
    fs::rename(home.join("user.key"), home.join("user.key.new")).unwrap();
    let report = check(home, false);
    assert!(faults(&report).contains(&("user.key", &Fault::Missing)), "{report:?}");
    let report = check(home, true);
    assert!(
        report.wrong().any(|finding| finding.fault == Fault::Missing),
        "{report:?}"
    );
    assert!(!home.join("user.key").exists());
    assert!(home.join("lost+found/user.key.new").exists(), "it may be the only copy");
    fs::write(home.join("user.key"), "potluck-secret-key-1 00\n").unwrap();
    fs::set_permissions(home.join("user.key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(faults(&check(home, true)).contains(&("user.key", &Fault::NotAKey)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_put_right_and_what_is_lost_is_given_up() {
    let mut pool = used().await;
    let home = pool.members[0].home.path().to_owned();
    let store = home.join("store");

    fs::remove_file(store.join("index.redb")).unwrap();
    assert_eq!(mended(&home), Fault::Index);
    fs::write(store.join("index.redb"), vec![7; 100_000]).unwrap();
    assert_eq!(mended(&home), Fault::Index);
    fs::remove_file(store.join("STORE")).unwrap();
    assert_eq!(mended(&home), Fault::Superblock);

    let pack = store.join("0000000001.pack");
    let mut content = fs::read(&pack).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&pack, &content).unwrap();
    assert_eq!(mended(&home), Fault::Shards { count: 1 });

    // What was acknowledged is gone from the end of the pack.
    fs::write(&pack, &content[..middle]).unwrap();
    let report = check(&home, true);
    let lost = |finding: &Finding| matches!(finding.fault, Fault::Shards { count } if count > 1);
    assert!(report.findings.iter().any(lost), "{report:?}");
    // The index knows of removals that the packs have lost.
    assert!(
        faults(&report).contains(&("store/index.redb", &Fault::Index)),
        "{report:?}"
    );
    assert_eq!(report.wrong().count(), 0);
    assert_eq!(faults(&check(&home, false)), []);

    // All of it is gone.
    for entry in fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "pack") {
            fs::remove_file(path).unwrap();
        }
    }
    let report = check(&home, true);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| matches!(finding.fault, Fault::Packs { .. })),
        "{report:?}"
    );
    assert_eq!(report.wrong().count(), 0);
    assert_eq!(faults(&check(&home, false)), []);
    fs::rename(&store, home.join("lost+found-store")).unwrap();
    assert!(faults(&check(&home, false)).contains(&("store", &Fault::NoStore)));
    fs::rename(home.join("lost+found-store"), &store).unwrap();
    pool.restart(0).await;
    assert_eq!(pool.node(0).scrub().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_damaged_is_told_and_set_aside() {
    let pool = used().await;
    let home = pool.members[0].home.path();
    let path = home.join("meta.redb");
    let sound = fs::read(&path).unwrap();
    let check_with = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(only(home).fault, Fault::Database { .. }));
        let report = check(home, true);
        assert_eq!(
            report.wrong().map(|finding| &finding.fault).collect::<Vec<_>>(),
            [&Fault::NoDatabase]
        );
        let aside = home.join("lost+found/meta.redb");
        assert!(fs::read(&aside).unwrap() == content, "it may be the only copy");
        fs::remove_file(aside).unwrap();
    };
    check_with(&sound[..sound.len() / 3]);
    check_with(&vec![0x5a; 50_000]);
    // Each page that holds something counts.
    let used: Vec<usize> = (0..sound.len())
        .step_by(4096)
        .filter(|at| sound[*at..(*at + 4096).min(sound.len())].iter().any(|byte| *byte != 0))
        .collect();
    let mut told = 0;
    for at in used.iter().skip(1).step_by(used.len() / 16 + 1) {
        let mut content = sound.clone();
        content[at + 20] ^= 0xff;
        fs::write(&path, &content).unwrap();
        told += u32::from(check(home, false).wrong().count() > 0);
    }
    assert!(told > 0, "pages that are free do not count, but some are not");
    // One of a later version is not damaged.
    fs::write(&path, &sound).unwrap();
    database(home, |transaction| {
        let settings: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");
        let later = potluck_types::to_canonical(&99u32);
        transaction
            .open_table(settings)
            .unwrap()
            .insert("version", &later[..])
            .unwrap();
    });
    let report = check(home, true);
    let wrong: Vec<&Fault> = report.wrong().map(|finding| &finding.fault).collect();
    assert!(
        matches!(wrong[..], [Fault::Unreadable { .. }]) && path.exists(),
        "{report:?}"
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(faults(&check(home, true)), [("meta.redb", &Fault::NoDatabase)]);
}

/// What its database knew the others know, too; its shards are where they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_has_lost_its_database_comes_back_as_what_it_was() {
    let mut pool = Pool::of(3, GRACE).await;
    for number in 0..4 {
        pool.put(0, &format!("/{number}"), &bytes(number, 300_000)).await;
    }
    pool.put(2, "/own", &bytes(9, 300_000)).await;
    let (id, held) = (
        pool.node(2).identity().node,
        pool.node(2).held(None, 100).await.unwrap(),
    );
    assert!(!held.is_empty());
    pool.kill(2).await;
    let home = pool.members[2].home.path().to_owned();
    close(&home);
    check(&home, false);
    fs::write(home.join("meta.redb"), vec![7; 100_000]).unwrap();
    let report = check(&home, true);
    assert!(
        matches!(
            faults(&report)[..],
            [("meta.redb", Fault::Database { .. }), ("meta.redb", Fault::NoDatabase)]
        ),
        "{report:?}"
    );
    assert!(home.join("lost+found/meta.redb").exists());
    assert!(matches!(only(&home).fault, Fault::NoDatabase));
    let start = Node::start(pool.config(&pool.members[2].home)).await;
    assert!(start.is_err(), "it is not made anew without a word");

    // Not by a ticket of another pool, or to another person.
    let options = |mine| InviteOptions {
        uses: 1,
        expires: Duration::from_secs(60),
        mine,
    };
    let config = || pool.config(&pool.members[2].home);
    let other = Pool::of(1, GRACE).await;
    let ticket = other.node(0).invite(options(true)).await.unwrap().ticket;
    assert!(Node::join(config(), &ticket).await.is_err());
    let ticket = pool.node(0).invite(options(true)).await.unwrap().ticket;
    let key = fs::read_to_string(home.join("user.key")).unwrap();
    fs::copy(other.members[0].home.path().join("user.key"), home.join("user.key")).unwrap();
    assert!(Node::join(config(), &ticket).await.is_err());
    fs::write(home.join("user.key"), key).unwrap();
    // Nobody founds a pool over its shards, or is told that it never had one.
    assert!(Node::found(config(), "another").await.is_err());
    let start = Node::start(config()).await;
    assert!(
        matches!(start, Err(StartError::Home(HomeError::Damaged { .. }))),
        "{:?}",
        start.err()
    );
    let report = check(&home, false);
    assert!(
        faults(&report)
            .iter()
            .any(|(_, fault)| matches!(fault, Fault::NoGenesis))
    );

    let back = Node::join(config(), &ticket).await.unwrap();
    pool.members[2].node = Some(back);
    pool.all_see_each_other().await;
    assert_eq!(pool.node(2).identity().node, id);
    assert_eq!(pool.node(2).held(None, 100).await.unwrap().len(), held.len());
    assert_eq!(pool.node(0).status().await.unwrap().nodes.len(), 3);
    // It goes on in its own log where it was.
    pool.put(2, "/own", &bytes(10, 300_000)).await;
    for i in 0..3 {
        pool.holds(i, "/own", &bytes(10, 300_000)).await;
        pool.holds(i, "/3", &bytes(3, 300_000)).await;
    }
    pool.health("nothing was lost", |health| {
        health.worst() == Some(1) && health.endangered == 0
    })
    .await;
    pool.kill(2).await;
    let report = check(&home, false);
    assert!(report.entries > 5 && report.findings.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_follow_from_the_logs_are_made_anew() {
    let mut pool = used().await;
    let home = pool.members[0].home.path().to_owned();
    for table in [
        "space-pins",
        "space-registers",
        "space-uses",
        "space-users",
        "space-frontier",
        "space-kept",
        "space-kept-at",
        "space-kept-until",
        "space-totals",
    ] {
        damage_row(&home, Table::new(table), 0, true);
        let fault = mended(&home);
        assert!(
            matches!(
                fault,
                Fault::Tables {
                    count: 1,
                    is_derivable: true
                }
            ),
            "{table}: {fault:?}"
        );
    }
    pool.restart(0).await;
    pool.holds(0, "/photos/3", &bytes(99, 5000)).await;
    let listed = pool
        .node(0)
        .private()
        .list(&"/photos".parse().unwrap(), None, 100)
        .await
        .unwrap();
    assert_eq!(listed.len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_make_no_sense_are_set_aside() {
    let mut pool = used().await;
    let home = pool.members[0].home.path().to_owned();
    for table in ["records", "dedup", "invites"] {
        database(&home, |transaction| {
            let mut table = transaction.open_table(Table::new(table)).unwrap();
            table.insert(&b"no key"[..], &b"no value"[..]).unwrap();
        });
        assert_eq!(mended(&home), Fault::Rows { count: 1 });
        assert!(home.join(format!("lost+found/{table}.rows")).exists());
    }
    pool.restart(0).await;
    pool.holds(0, "/photos/3", &bytes(99, 5000)).await;
}

/// What this person's own log said may be nowhere else: it stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_ones_own_that_breaks_off_is_told_and_left() {
    let pool = used().await;
    let home = pool.members[0].home.path();
    damage_row(home, LOG, 3, false);
    let before = fs::read(home.join("meta.redb")).unwrap();
    let report = check(home, true);
    let broken = report.wrong().any(|finding| {
        finding.fault
            == Fault::BrokenLog {
                seq: 4,
                is_others: false,
            }
    });
    assert!(broken, "{report:?}");
    assert!(report.findings.iter().all(|finding| !finding.is_repaired), "{report:?}");
    assert!(fs::read(home.join("meta.redb")).unwrap() == before);
}

/// Two persons: each keeps the other's log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_kept_for_another_is_cut_and_comes_again() {
    let mut pool = Pool::of(1, GRACE).await;
    close(pool.members[0].home.path());
    let options = InviteOptions {
        uses: 1,
        expires: Duration::from_secs(3600),
        mine: false,
    };
    let ticket = pool.node(0).invite(options).await.unwrap().ticket;
    let other_home: TempDir = tempfile::tempdir().unwrap();
    let other = Node::join(config(&other_home, GRACE), &ticket).await.unwrap();
    let sees_both = || async {
        let nodes = other.status().await.unwrap().nodes;
        nodes.iter().filter(|info| info.away_since.is_none()).count() == 2
    };
    eventually("they see each other", sees_both).await;
    for number in 0..5 {
        put(&other, &format!("/{number}"), &bytes(number, 20_000))
            .await
            .unwrap();
    }
    pool.kill(0).await;
    let home = pool.members[0].home.path().to_owned();
    assert_eq!(faults(&check(&home, false)), []);
    damage_row(&home, LOG, 2, true);
    let report = check(&home, false);
    let is_broken = |finding: &Finding| {
        finding.fault
            == Fault::BrokenLog {
                seq: 3,
                is_others: true,
            }
    };
    assert!(report.findings.iter().any(is_broken), "{report:?}");
    assert_eq!(check(&home, true).wrong().count(), 0);
    let report = check(&home, false);
    assert_eq!((faults(&report), report.entries), (Vec::new(), 2));
    let kept = fs::read_dir(home.join("lost+found")).unwrap().count();
    assert_eq!(kept, 1, "what was behind the gap");
    pool.restart(0).await;
    eventually("they see each other again", sees_both).await;
    put(&other, "/again", &bytes(9, 20_000)).await.unwrap();
    let put_more = || async { Box::pin(put(&other, "/more", &bytes(10, 20_000))).await.is_ok() };
    eventually("the log comes again", put_more).await;
    pool.kill(0).await;
    let report = check(&home, false);
    assert!(faults(&report).is_empty() && report.entries >= 6, "{report:?}");
    other.stop().await;
}
