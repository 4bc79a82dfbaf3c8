//! Twenty devices that edit one space for days, cut off from each other in ever other groups, and then meet: all of them have the same, and whatever anybody
//! put is there, in a file, beside one, or in the trash.

use super::*;
use std::{cell::Cell, collections::BTreeSet};

const DEVICES: u8 = 20;
const DAYS: usize = 5;
const EDITS_A_DAY: usize = 120;
const DAY_MS: u64 = 86_400_000;

/// Draws numbers from a seed.
struct Dice(Cell<u64>);

impl Dice {
    /// Sebastiano Vigna's splitmix64.
    fn below(&self, limit: usize) -> usize {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mixed = (self.0.get() ^ (self.0.get() >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }

    fn one_of<'a>(&self, all: &'a [String]) -> Option<&'a str> {
        (!all.is_empty()).then(|| all[self.below(all.len())].as_str())
    }
}

struct Party {
    dice: Dice,
    devices: Vec<Device>,
    logs: Vec<Vec<Logged>>,
    /// Whether an entry of one is known to another: how many.
    known: Vec<Vec<usize>>,
    /// Contents that somebody put.
    put: BTreeSet<[u8; 4]>,
}

impl Party {
    fn new(seed: u64) -> Self {
        let count = usize::from(DEVICES);
        let mut devices: Vec<Device> = (1..=DEVICES).map(Device::new).collect();
        let dice = Dice(Cell::new(seed));
        for device in &mut devices {
            device.fate = Fate::Kept(30 * DAY_MS);
            // Clocks that are wrong by up to two days.
            device.now = 10 * DAY_MS + dice.below(4) as u64 * DAY_MS;
        }
        Self {
            dice,
            devices,
            logs: vec![Vec::new(); count],
            known: vec![vec![0; count]; count],
            put: BTreeSet::new(),
        }
    }

    /// All that the one knows comes to the other.
    fn tell(&mut self, from: usize, to: usize) {
        for author in 0..self.logs.len() {
            let until = match author == from {
                true => self.logs[author].len(),
                false => self.known[from][author],
            };
            let at = self.known[to][author];
            for entry in self.logs[author].iter().take(until).skip(at) {
                self.devices[to].take(entry).unwrap();
            }
            self.known[to][author] = at.max(until);
        }
    }

    fn files(&self, who: usize) -> Vec<String> {
        let files = self.devices[who].files();
        files.into_iter().map(|(path, _)| path).collect()
    }

    /// A person does something.
    fn edit(&mut self, who: usize) {
        let dice = &self.dice;
        let (files, directories) = (self.files(who), self.devices[who].directories());
        let device = &mut self.devices[who];
        device.now += dice.below(3_600_000) as u64;
        let into = dice.one_of(&directories).unwrap_or_default();
        let entry = match dice.below(12) {
            0..=2 => Some(self.devices[who].put(&format!("{into}/{}", dice.below(6)), &mut self.put)),
            3 => Some(self.devices[who].put(&format!("{into}/d{}/{}", dice.below(3), dice.below(6)), &mut self.put)),
            4..=6 => dice.one_of(&files).map(|at| self.devices[who].put(at, &mut self.put)),
            7 => dice.one_of(&files).map(|at| self.devices[who].set(at, None)),
            8 => match (dice.one_of(&files), dice.below(40)) {
                (Some(at), to) => device.rename(at, &format!("{into}/moved-{to}")),
                (None, _) => None,
            },
            9 | 10 => dice.one_of(&directories).and_then(|at| {
                let (_, leaf) = at.rsplit_once('/').unwrap();
                device.rename(at, &format!("{into}/{leaf}"))
            }),
            _ => match dice.below(4) {
                0 => dice.one_of(&directories).and_then(|at| device.remove_all(at)),
                _ => None,
            },
        };
        self.logs[who].extend(entry);
    }

    /// Who can reach each other changes with each day.
    fn day(&mut self) {
        let group: Vec<usize> = (0..self.devices.len()).map(|_| self.dice.below(4)).collect();
        for _ in 0..EDITS_A_DAY {
            let who = self.dice.below(self.devices.len());
            self.edit(who);
            let other = self.dice.below(self.devices.len());
            // Nobody of the first group reaches anybody.
            if group[who] == group[other] && group[who] > 0 && who != other {
                self.tell(who, other);
            }
        }
    }

    fn meet(&mut self) {
        for from in 0..self.devices.len() {
            for to in 0..self.devices.len() {
                if from != to {
                    self.tell(from, to);
                }
            }
        }
    }
}

impl Device {
    /// Puts what nobody has put before.
    fn put(&mut self, at: &str, put: &mut BTreeSet<[u8; 4]>) -> Logged {
        let content = u32::try_from(put.len()).unwrap().to_be_bytes();
        put.insert(content);
        self.set_content(at, Some(content.to_vec()))
    }

    /// The contents of all files and of all that is in the trash.
    fn contents(&self) -> BTreeSet<[u8; 4]> {
        let rows = |table| self.kv.scan(table, &[], None, usize::MAX).unwrap();
        let named = rows(Table::Registers);
        let named = named
            .iter()
            .flat_map(|(_, row)| from_canonical::<Vec<Head>>(row).unwrap());
        let kept = rows(Table::Kept);
        let kept = kept.iter().map(|(_, row)| from_canonical::<Kept>(row).unwrap().head);
        let content = |head: Head| match head.value {
            Value::File(file) => Some(file.content[..].try_into().unwrap()),
            Value::Directory(_) | Value::Space(_) => None,
        };
        named.chain(kept).filter_map(content).collect()
    }
}

#[test]
fn twenty_devices_that_edit_apart_for_days_have_the_same_in_the_end_and_nothing_is_lost() {
    for seed in 0..3 {
        let mut party = Party::new(seed);
        for _ in 0..DAYS {
            party.day();
        }
        party.meet();
        let (first, others) = party.devices.split_first().unwrap();
        let shown: usize = first.files().iter().map(|(_, contents)| contents.len()).sum();
        assert_eq!(
            shown,
            first.versions(),
            "seed {seed}: a file is in no directory, or in several"
        );
        let there = first.contents();
        let lost: Vec<_> = party.put.difference(&there).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?} of {} are lost", party.put.len());
        let conflicts = Tree::of(SPACE).conflicts(&first.kv, None, 1000).unwrap();
        assert!(
            !conflicts.is_empty() && party.put.len() > 200,
            "seed {seed} tries little"
        );
        for other in others {
            assert!(other.state() == first.state(), "seed {seed}: the tables differ");
        }
    }
}
