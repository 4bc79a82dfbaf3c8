//! Who could do what in a space, since when, and whether what is known of it is as it was written.

use super::Person;
use potluck_types::{ByteSize, Hash, NodeId, Regions, Timestamp};
use serde::{Deserialize, Serialize};

/// Something that changed who can read or write in a space, or where its data may be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessEvent {
    /// When, by the clock of who did it.
    pub at: Timestamp,
    /// Who did it, and has signed it; none when nobody of the pool has that key any more.
    pub by: Option<Person>,
    /// What it was.
    #[serde(flatten)]
    pub what: AccessChange,
}

/// What changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub enum AccessChange {
    /// The space was founded: who did it may do everything in it.
    Founded,
    /// A person was let in, or given other rights than they had.
    LetIn {
        /// Who.
        person: Person,
        /// Whether they may write.
        may_write: bool,
        /// Until when.
        until: Option<Timestamp>,
        /// How many bytes of what they put may be there, if that is bounded.
        quota: Option<ByteSize>,
        /// Whether they may let others in.
        may_share: bool,
        /// The directory that they were let into, as it is called now; none when it was all of the space.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefix: Option<String>,
        /// Whether it counted: who said so may not have heard yet that they had no say any more.
        counted: bool,
    },
    /// A person was taken out.
    TakenOut {
        /// Who.
        person: Person,
        /// The directory that they were taken out of, as it is called now; none when it was all of the space.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefix: Option<String>,
    },
    /// The owner's key was replaced, since a machine of theirs was lost: the links that they had made ended.
    KeyReplaced,
    /// The logs of machines ended that were taken out of their person's hands.
    MachinesLost {
        /// Which.
        machines: Vec<NodeId>,
    },
    /// A link was made: whoever of the pool has it reads what it leads to.
    LinkMade {
        /// Its id.
        link: String,
        /// What it shows, as it is called now; none when that is gone.
        path: Option<String>,
        /// When it ends.
        until: Option<Timestamp>,
        /// Whether a password must be known beside it.
        needs_password: bool,
    },
    /// A link was ended. What it showed is not told any more.
    LinkEnded {
        /// Its id.
        link: String,
    },
    /// Where the data may be was said last.
    Confined {
        /// In these regions; everywhere, when there are none.
        regions: Regions,
    },
}

/// What was found of a space's history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verified {
    /// Entries of logs that were checked.
    pub entries: u64,
    /// Entries beyond the end of what counts of a log, which nobody is given: of machines that were lost, and of people who were taken out.
    pub set_aside: u64,
    /// The machines that wrote them, and how many each.
    pub machines: Vec<(NodeId, u64)>,
    /// Records of who may read and write.
    pub records: u64,
    /// The hash of all of it: whoever has the same history gets the same.
    pub digest: Hash,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
    /// How many problems there are; some of them are named.
    pub problems_count: u64,
    /// What other machines that keep the history have.
    pub compared: Vec<Compared>,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// In whose log; none in the charter.
    pub machine: Option<NodeId>,
    /// Which entry.
    pub seq: Option<u64>,
    /// What it is.
    pub what: String,
}

/// What another machine has of the history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// Which.
    pub machine: NodeId,
    /// What its person calls it.
    pub name: Option<potluck_types::MachineName>,
    /// How that compares.
    pub has: Has,
}

/// How what another machine has compares with what this one has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Has {
    /// It is the same.
    Same,
    /// One has less than the other, and what both have is the same.
    Part,
    /// It has another entry in one place: one of the two was changed, or a machine has signed two histories.
    Another,
    /// It did not answer.
    Silent,
}
