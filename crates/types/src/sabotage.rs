//! Bugs to be planted, one at a time, so that it can be seen whether the simulation finds them. Without the feature `sabotage`, which nothing that ships has, none can be:
//! the compiler leaves out what asks for them.

/// What may be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A shard is acknowledged before it is synced.
    AcknowledgeBeforeSync,
    /// A shard is taken for what it says it is.
    AcceptWrongShard,
    /// Two machines of one zone count as two.
    CountZoneTwice,
    /// Shards are freed of stripes that are in use.
    CollectPinned,
    /// That a stripe is no longer in use is not taken note of.
    DropUnpin,
    /// Full machines are given shards.
    RepairToFull,
    /// Who was a member once is served as one.
    ServeTakenOut,
    /// Where the data of a space may be is not heeded when it is placed and repaired.
    IgnoreRegions,
    /// What a snapshot holds is let go of with all else.
    ForgetSnapshots,
    /// A link goes on showing what there was.
    LeaveLinks,
    /// A link is said to have ended, and goes on.
    KeepLinks,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::AcknowledgeBeforeSync,
        Self::AcceptWrongShard,
        Self::CountZoneTwice,
        Self::CollectPinned,
        Self::DropUnpin,
        Self::RepairToFull,
        Self::ServeTakenOut,
        Self::IgnoreRegions,
        Self::ForgetSnapshots,
        Self::LeaveLinks,
        Self::KeepLinks,
    ];
}

#[cfg(feature = "sabotage")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in everything that this thread runs, in place of the one before.
#[cfg(feature = "sabotage")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted here.
#[cfg(feature = "sabotage")]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted here: never.
#[cfg(not(feature = "sabotage"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}
