//! What goes wrong, drawn from a seed.

use std::str::FromStr;

/// Random numbers (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides.max(1)
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.roll(count as u64)).unwrap_or(0)
    }
}

/// What goes wrong with a machine until it is mended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fault {
    /// SIGKILL, and it stays down.
    Killed,
    /// SIGKILL and a start, three times.
    CrashLoop,
    /// SIGSTOP.
    Frozen,
    /// Its link is down.
    CutOff,
    /// What it sends to half of the others vanishes.
    OneWay,
    /// It and the other victim do not hear each other; all others hear both.
    Bridge,
    /// It sends at 2 Mbit/s.
    Narrow,
    /// One in ten packets to it is lost.
    Lossy,
    /// What it sends takes 150 ms.
    Slow,
    /// Packets of more than 1,300 bytes vanish, and nobody says so.
    BlackHole,
    /// No UDP goes to it or comes from it.
    NoUdp,
    /// What it sends comes from other ports than before, as when a router forgets.
    Rebound,
    /// Its disk is full.
    FullDisk,
    /// Bits flip in its packs while it runs.
    Rot,
    /// Bits flip while it is down.
    RotAsleep,
    /// Bits flip in its database while it is down. It is started as if nothing were; then its home is checked and repaired, or, where it cannot be, it comes back without a database.
    RotNames,
    /// Its clock is a day ahead.
    ClockAhead,
    /// Its clock is a day behind.
    ClockBehind,
    /// It is killed, and goes on with another version of the program: the newer one, or the older again.
    OtherVersion,
}

impl Fault {
    pub(crate) const ALL: [Self; 19] = [
        Self::Killed,
        Self::CrashLoop,
        Self::Frozen,
        Self::CutOff,
        Self::OneWay,
        Self::Bridge,
        Self::Narrow,
        Self::Lossy,
        Self::Slow,
        Self::BlackHole,
        Self::NoUdp,
        Self::Rebound,
        Self::FullDisk,
        Self::Rot,
        Self::RotAsleep,
        Self::RotNames,
        Self::ClockAhead,
        Self::ClockBehind,
        Self::OtherVersion,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Killed => "SIGKILL",
            Self::CrashLoop => "crash loop",
            Self::Frozen => "SIGSTOP",
            Self::CutOff => "link down",
            Self::OneWay => "one-way partition",
            Self::Bridge => "partition between two",
            Self::Narrow => "2 Mbit/s",
            Self::Lossy => "packet loss",
            Self::Slow => "delay",
            Self::BlackHole => "large packets vanish",
            Self::NoUdp => "no UDP",
            Self::Rebound => "ports change",
            Self::FullDisk => "disk full",
            Self::Rot => "flipped bits, running",
            Self::RotAsleep => "flipped bits, stopped",
            Self::RotNames => "flipped bits, database",
            Self::ClockAhead => "clock a day ahead",
            Self::ClockBehind => "clock a day behind",
            Self::OtherVersion => "another version",
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|fault| format!("'{}'", fault.name())).collect();
            format!("there are {}", names.join(", "))
        })
    }
}

/// A time in which machines suffer: each from one thing after the other.
#[derive(Clone, Debug)]
pub(crate) struct Episode {
    pub(crate) victims: Vec<usize>,
    pub(crate) faults: Vec<(usize, Fault)>,
}

impl Episode {
    /// As many victims at most as may be lost.
    pub(crate) fn draw(dice: &mut Dice, machines: usize, survives: usize, possible: &[Fault]) -> Self {
        let wanted = 1 + dice.below(survives.max(1));
        let mut victims = Vec::new();
        while victims.len() < wanted.min(machines) {
            let machine = dice.below(machines);
            if !victims.contains(&machine) {
                victims.push(machine);
            }
        }
        let steps = victims.len() + dice.below(2);
        let faults = (0..steps)
            .map(|step| {
                let victim = victims[step % victims.len()];
                (victim, possible[dice.below(possible.len())])
            })
            .collect();
        Self { victims, faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_suffer_than_may_and_all_faults_come() {
        let mut dice = Dice::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let episode = Episode::draw(&mut dice, 5, 2, &Fault::ALL);
            assert!((1..=2).contains(&episode.victims.len()));
            assert!(
                episode
                    .faults
                    .iter()
                    .all(|(victim, _)| episode.victims.contains(victim))
            );
            seen.extend(episode.faults.iter().map(|(_, fault)| *fault));
        }
        assert_eq!(seen.len(), Fault::ALL.len());
    }
}
