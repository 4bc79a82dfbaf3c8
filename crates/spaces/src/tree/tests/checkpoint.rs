//! A device that takes a checkpoint, and the logs before it later or never, has what one has that replays all of them.

use super::{
    erased::{Step, all_meet, steps, take_step},
    *,
};
use crate::{CheckpointError, Frontier, checkpoint, make_anew};

/// A checkpoint, as it is handed on.
struct Made {
    logs: Frontier,
    pages: Vec<Vec<u8>>,
}

impl Made {
    fn of(device: &Device) -> Self {
        let mut pages = checkpoint::Pages::of(SPACE, &device.kv).unwrap().expect("all is read");
        let logs = Log::of(SPACE).frontier(&device.kv).unwrap();
        let pages = std::iter::from_fn(|| pages.next(&device.kv).unwrap()).collect();
        Self { logs, pages }
    }

    fn begin(&self, device: &mut Device) {
        checkpoint::hold(&mut device.kv, SPACE).unwrap();
        self.go_on(device);
    }

    fn go_on(&self, device: &mut Device) {
        checkpoint::begin(&mut device.kv, SPACE, &self.logs).unwrap();
        for page in &self.pages {
            checkpoint::take(&mut device.kv, Tree::of(SPACE), page).unwrap();
        }
    }

    fn take(&self, device: &mut Device) {
        self.begin(device);
        checkpoint::finish(&mut device.kv, SPACE, &self.logs).unwrap();
    }
}

impl Device {
    /// Takes from another so many entries of each log before the checkpoint.
    fn fill(&mut self, other: &MemoryKv, limit: usize) {
        let log = Log::of(SPACE);
        for (device, unfilled) in log.unfilled(&self.kv).unwrap() {
            let at = unfilled.at.map_or(0, |at| at.seq);
            for logged in log.entries_after(other, device, at, limit).unwrap() {
                let sent = Logged::from_bytes(&logged.to_bytes()).unwrap();
                if log.fill(&mut self.kv, device, &sent).unwrap() {
                    break;
                }
            }
        }
    }

    /// One that keeps what another knows, as far as that, and may not read it.
    fn keeping(other: &MemoryKv, limit: usize) -> Self {
        let mut keeper = Self {
            keys: Keys::default(),
            ..Self::new(9)
        };
        keeper.keep(other, limit);
        keeper
    }

    /// Takes so many more entries of each log that another knows.
    fn keep(&mut self, other: &MemoryKv, limit: usize) {
        let log = Log::of(SPACE);
        for device in log.frontier(other).unwrap().into_keys() {
            let known = log.position(&self.kv, device).unwrap().map_or(0, |known| known.seq);
            for logged in log.entries_after(other, device, known, limit).unwrap() {
                self.take(&logged).unwrap();
            }
        }
    }

    /// May read from now on.
    fn let_in(&mut self) {
        self.keys = Device::new(9).keys;
    }

    /// Opens what waits.
    fn open_all(&mut self) {
        while Tree::of(SPACE).unseal(&mut self.kv, &self.keys, 3).unwrap().is_some() {}
    }

    /// One that has made all anew of what is here.
    fn anew(&self) -> Self {
        let mut kv = self.kv.clone();
        make_anew(SPACE, &mut kv, &self.keys, Tree::of(SPACE)).unwrap();
        Self { kv, ..Self::new(8) }
    }

    /// What there is of the space, without the logs.
    fn tables(&self) -> MemoryKv {
        let mut tables = self.shown();
        tables
            .0
            .retain(|(table, _), _| !matches!(table, Table::Log | Table::Unfilled));
        tables
    }
}

fn differing(one: &MemoryKv, other: &MemoryKv) -> Vec<Table> {
    let mut tables = Table::ALL.to_vec();
    let rows = |kv: &MemoryKv, table| kv.scan(table, &[], None, usize::MAX).unwrap();
    tables.retain(|table| rows(one, *table) != rows(other, *table));
    tables
}

/// Three devices that have lived through this.
fn three_after(steps: &[Step], kept: bool) -> Vec<Device> {
    let mut devices: Vec<Device> = (1..=3).map(Device::new).collect();
    for device in &mut devices {
        device.fate = if kept { Fate::Kept(60_000) } else { Fate::Freed };
    }
    for step in steps {
        take_step(&mut devices, step);
    }
    devices
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn who_takes_a_checkpoint_has_what_the_logs_say(
        before in steps(),
        after in steps(),
        kept in any::<bool>(),
        filled_between in 0..6usize,
    ) {
        let mut devices = three_after(&before, kept);
        let made = Made::of(&devices[0]);
        let mut newcomer = Device::new(9);
        made.take(&mut newcomer);
        prop_assert_eq!(differing(&newcomer.tables(), &devices[0].tables()), []);
        // It hears what comes next from one who knows no more than the checkpoint, and then from all.
        let known = devices[0].kv.clone();
        newcomer.fill(&known, filled_between);
        for step in &after {
            take_step(&mut devices, step);
        }
        newcomer.hear(&devices[0].kv);
        let mut anew = Device { kv: newcomer.kv.clone(), ..Device::new(9) };
        newcomer.fill(&devices[0].kv, filled_between);
        all_meet(&mut devices);
        newcomer.hear(&devices[0].kv);
        prop_assert_eq!(differing(&newcomer.tables(), &devices[0].tables()), []);
        newcomer.fill(&devices[0].kv, usize::MAX);
        prop_assert!(Log::of(SPACE).is_filled(&newcomer.kv).unwrap());
        prop_assert_eq!(differing(&newcomer.shown(), &devices[0].shown()), []);
        // All is there to make it anew of.
        prop_assert_eq!(differing(&newcomer.anew().shown(), &devices[0].shown()), []);
        // Made anew while some of it was not here, it has what is, and hears the rest.
        make_anew(SPACE, &mut anew.kv, &newcomer.keys, Tree::of(SPACE)).unwrap();
        prop_assert!(Log::of(SPACE).is_filled(&anew.kv).unwrap());
        anew.hear(&devices[0].kv);
        prop_assert_eq!(differing(&anew.shown(), &devices[0].shown()), []);
    }

    #[test]
    fn who_has_kept_logs_unread_takes_a_checkpoint_and_has_what_they_say(
        before in steps(),
        after in steps(),
        kept in any::<bool>(),
        // From whom, and how much: before the checkpoint was made, and after.
        early in (0..3usize, 0..6usize),
        late in (0..3usize, 0..6usize),
        filled_between in 0..6usize,
    ) {
        let mut devices = three_after(&before, kept);
        let made = Made::of(&devices[0]);
        let known = devices[0].kv.clone();
        let mut keeper = Device::keeping(&devices[early.0].kv, early.1);
        for step in &after {
            take_step(&mut devices, step);
        }
        keeper.keep(&devices[late.0].kv, late.1);
        keeper.let_in();
        let mut unread = Device { kv: keeper.kv.clone(), keys: Keys::default(), ..Device::new(9) };
        let has_logs = !Log::of(SPACE).frontier(&keeper.kv).unwrap().is_empty();
        checkpoint::hold(&mut keeper.kv, SPACE).unwrap();
        if has_logs {
            // What is missing of the logs comes first. Nothing of it is opened.
            keeper.keep(&known, usize::MAX);
            unread.keep(&known, usize::MAX);
        }
        made.go_on(&mut keeper);
        if has_logs {
            keeper.keep(&devices[late.0].kv, 1);
            unread.keep(&devices[late.0].kv, 1);
        }
        // Whoever gives it up has what it would have otherwise.
        let mut other = Device { kv: keeper.kv.clone(), ..Device::new(9) };
        // Also after somebody has made the tables anew, as if nothing were being taken.
        other.kv.0.retain(|(table, _), _| *table != Table::Sealed);
        while !checkpoint::give_up(&mut other.kv, SPACE).unwrap() {}
        prop_assert_eq!(differing(&other.kv, &unread.kv), []);
        other.open_all();
        checkpoint::finish(&mut keeper.kv, SPACE, &made.logs).unwrap();
        keeper.open_all();
        keeper.fill(&known, filled_between);
        keeper.hear(&devices[0].kv);
        all_meet(&mut devices);
        for one in [&mut keeper, &mut other] {
            one.hear(&devices[0].kv);
            one.fill(&devices[0].kv, usize::MAX);
            prop_assert!(Log::of(SPACE).is_filled(&one.kv).unwrap());
            prop_assert_eq!(differing(&one.shown(), &devices[0].shown()), []);
            prop_assert_eq!(differing(&one.anew().shown(), &devices[0].shown()), []);
        }
    }
}

#[test]
fn nothing_else_is_taken_meanwhile_and_what_was_begun_can_be_given_up() {
    let mut writer = Device::new(1);
    writer.set("/a/b", Some(1));
    let made = Made::of(&writer);
    let mut other = Device::new(2);
    made.begin(&mut other);
    assert!(checkpoint::is_begun(&other.kv, SPACE).unwrap());
    let next = writer.set("/a/c", Some(2));
    assert!(matches!(other.take(&next), Err(AppendError::Begun)));
    assert!(matches!(
        checkpoint::hold(&mut other.kv, SPACE),
        Err(CheckpointError::NotEmpty)
    ));
    assert!(checkpoint::give_up(&mut other.kv, SPACE).unwrap());
    assert_eq!(other.kv, MemoryKv::default());
    made.take(&mut other);
    assert!(!checkpoint::is_begun(&other.kv, SPACE).unwrap());
    other.take(&next).unwrap();
    assert_eq!(other.files(), writer.files());
    // Of what is not whole nobody makes one.
    assert!(checkpoint::Pages::of(SPACE, &other.kv).unwrap().is_none());
    assert!(matches!(
        checkpoint::hold(&mut other.kv, SPACE),
        Err(CheckpointError::NotEmpty)
    ));
}

#[test]
fn a_log_that_ends_otherwise_than_the_checkpoint_says_is_not_taken() {
    let mut writer = Device::new(1);
    writer.set("/a", Some(1));
    let mut liar = Device {
        kv: writer.kv.clone(),
        ..Device::new(1)
    };
    writer.set("/b", Some(2));
    let forged = liar.set("/b", Some(3));
    let made = Made::of(&writer);
    let mut other = Device::new(2);
    made.take(&mut other);
    let log = Log::of(SPACE);
    let (me, entries) = (writer.key.node_id(), |kv: &MemoryKv| {
        log.entries_after(kv, writer.key.node_id(), 0, 9).unwrap()
    });
    // What is not here is given to nobody.
    assert_eq!(entries(&other.kv), []);
    let true_ones = entries(&writer.kv);
    assert!(matches!(
        log.fill(&mut other.kv, me, &true_ones[1]),
        Err(AppendError::Gap { expected: 1, .. })
    ));
    assert!(!log.fill(&mut other.kv, me, &true_ones[0]).unwrap());
    assert_eq!(entries(&other.kv).len(), 1);
    assert!(matches!(
        log.fill(&mut other.kv, me, &forged),
        Err(AppendError::Fork { seq: 2, .. })
    ));
    log.unfill(&mut other.kv, me).unwrap();
    assert_eq!(entries(&other.kv), []);
    for logged in &true_ones {
        log.fill(&mut other.kv, me, logged).unwrap();
    }
    assert_eq!(other.state(), writer.state());
}

#[test]
fn nobody_erases_what_is_before_a_checkpoint_by_leaving_it_out() {
    let (mut writer, mut stranger) = (Device::new(1), Device::new(2));
    let written = writer.set("/a", Some(1));
    let made = Made::of(&writer);
    let mut other = Device::new(3);
    made.take(&mut other);
    stranger.take(&written).unwrap();
    stranger.erase(1);
    let me = writer.key.node_id();
    let log = Log::of(SPACE);
    // With the word of one whom nobody has heard here.
    let without = log.entry(&stranger.kv, me, 1).unwrap().unwrap();
    assert!(matches!(
        log.fill(&mut other.kv, me, &without),
        Err(AppendError::Stripped { seq: 1, .. })
    ));
    assert!(log.fill(&mut other.kv, me, &written).unwrap());
    assert_eq!(other.state(), writer.state());
    // Heard, it counts.
    let mut later = Device::new(4);
    made.take(&mut later);
    later.hear(&stranger.kv);
    assert!(log.fill(&mut later.kv, me, &without).unwrap());
    assert_eq!(later.shown(), stranger.shown());
}

#[test]
fn a_page_with_anything_else_in_it_is_refused() {
    let mut writer = Device::new(1);
    writer.fate = Fate::Kept(60_000);
    writer.set("/a/b", Some(1));
    writer.set("/a/b", Some(2));
    let made = Made::of(&writer);
    let take = |page: &[u8]| {
        let mut kv = MemoryKv::default();
        checkpoint::hold(&mut kv, SPACE).unwrap();
        checkpoint::take(&mut kv, Tree::of(SPACE), page)
    };
    for page in &made.pages {
        take(page).unwrap();
        assert!(take(&page[..page.len() - 1]).is_err());
        let plain = zstd::bulk::decompress(page, checkpoint::PAGE_BYTES_MAX).unwrap();
        for at in 0..plain.len() {
            let mut other = plain.clone();
            other[at] ^= 1;
            // Whatever comes out: it does not panic.
            let _ = take(&zstd::bulk::compress(&other, 1).unwrap());
        }
    }
    let bomb = zstd::bulk::compress(&vec![0; checkpoint::PAGE_BYTES_MAX + 1], 1).unwrap();
    assert!(matches!(take(&bomb), Err(CheckpointError::Page(_))));
}

#[test]
fn what_is_erased_before_it_comes_is_erased_also_for_who_took_a_checkpoint_meanwhile() {
    let (mut writer, mut eraser) = (Device::new(1), Device::new(2));
    let written = writer.set("/x", Some(1));
    eraser.hear(&writer.kv);
    eraser.erase(1);
    // One that has not heard the writer yet.
    let mut other = Device::new(3);
    for logged in Log::of(SPACE)
        .entries_after(&eraser.kv, eraser.key.node_id(), 0, 9)
        .unwrap()
    {
        other.take(&logged).unwrap();
    }
    let mut newcomer = Device::new(4);
    Made::of(&other).take(&mut newcomer);
    newcomer.take(&written).unwrap();
    let known = Log::of(SPACE)
        .entry(&newcomer.kv, writer.key.node_id(), 1)
        .unwrap()
        .unwrap();
    assert!(known.open().unwrap().0.is_erased());
    assert_eq!(newcomer.files(), []);
}

#[test]
fn who_keeps_logs_takes_a_checkpoint_of_these_only_and_of_no_more_than_they_are() {
    let mut writer = Device::new(1);
    writer.set("/a", Some(1));
    let mut other = Device {
        kv: writer.kv.clone(),
        ..Device::new(1)
    };
    writer.set("/b", Some(2));
    other.set("/b", Some(3));
    other.set("/c", Some(4));
    let made = Made::of(&writer);
    let begin = |kept: &MemoryKv, limit| {
        let mut keeper = Device::keeping(kept, limit);
        checkpoint::hold(&mut keeper.kv, SPACE).unwrap();
        checkpoint::begin(&mut keeper.kv, SPACE, &made.logs)
    };
    begin(&writer.kv, 2).unwrap();
    assert!(matches!(begin(&writer.kv, 1), Err(CheckpointError::Behind { .. })));
    for limit in [2, 3] {
        assert!(matches!(
            begin(&other.kv, limit),
            Err(CheckpointError::Fork { seq: 2, .. })
        ));
    }
}

#[test]
fn of_what_was_read_and_of_what_is_gone_none_is_taken() {
    let mut writer = Device::new(1);
    writer.set("/a", Some(1));
    let made = Made::of(&writer);
    let mut reader = Device::keeping(&writer.kv, 1);
    reader.let_in();
    assert!(checkpoint::is_wanted(&reader.kv, SPACE).unwrap());
    reader.open_all();
    assert!(!checkpoint::is_wanted(&reader.kv, SPACE).unwrap());
    assert!(matches!(
        checkpoint::hold(&mut reader.kv, SPACE),
        Err(CheckpointError::NotEmpty)
    ));
    // Somebody lets go of the space while one of it is taken.
    let mut other = Device::new(2);
    made.begin(&mut other);
    while !Log::of(SPACE).let_go(&mut other.kv).unwrap() {}
    assert!(matches!(
        checkpoint::take(&mut other.kv, Tree::of(SPACE), &made.pages[0]),
        Err(CheckpointError::NotBegun)
    ));
    assert!(matches!(
        checkpoint::finish(&mut other.kv, SPACE, &made.logs),
        Err(CheckpointError::NotBegun)
    ));
    assert_eq!(other.kv, MemoryKv::default());
}
