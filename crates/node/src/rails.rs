//! What keeps a person from losing more than they meant to: how long what they remove can be brought back, and the question before more goes than
//! they may have meant.

use crate::{
    api::TrashInfo,
    error::{MetaError, NodeError},
    names::{self, Batch},
    retention::Elapsed,
    shared::Shared,
    space::OpenSpace,
};
use potluck_spaces::{Change, Fate, Kv, Log, Mass, Share, Trash, Turnover};
use potluck_types::Timestamp;
use std::{fmt, time::Duration};

/// See the module.
pub(crate) struct Rails {
    /// How long what is removed and overwritten can be brought back.
    pub(crate) retention: Duration,
    /// What part of all files may go within an hour without a question.
    pub(crate) share: Share,
    /// What had been counted of time when this node started.
    elapsed_before: Duration,
}

impl Rails {
    pub(crate) fn resume(retention: Duration, share: Share, noted: Option<Elapsed>, now: Timestamp) -> Self {
        Self {
            retention,
            share,
            elapsed_before: Elapsed::resume(noted, now),
        }
    }
}

impl Shared {
    /// A time that only grows, over restarts too. See [`Elapsed`].
    pub(crate) fn elapsed(&self) -> Duration {
        self.rails.elapsed_before + self.started.elapsed()
    }
}

/// More would go than a person may have meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MassChange {
    /// What would be done.
    pub loss: Loss,
    /// To how many files.
    pub planned: u64,
    /// How many went within the last hour before.
    pub lately: u64,
    /// Of how many in all.
    pub of: u64,
}

/// How files go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// They are removed.
    Remove,
    /// Others take their names.
    Overwrite,
    /// Their space is removed.
    RemoveSpace,
}

impl fmt::Display for MassChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.loss {
            Loss::Remove => "remove",
            Loss::Overwrite => "overwrite",
            Loss::RemoveSpace => {
                let files = match self.planned {
                    1 => "1 file".to_owned(),
                    planned => format!("{} files", thousands(planned)),
                };
                return write!(f, "this would remove the space with {files} in it");
            }
        };
        let (planned, of) = (thousands(self.planned), thousands(self.of));
        match self.lately {
            0 => write!(f, "this would {verb} {planned} of {of} files of your space"),
            lately => write!(
                f,
                "this would {verb} {planned} more of your files: with those that went within the last hour, {} of {of}",
                thousands(self.planned + lately)
            ),
        }
    }
}

/// A number as people write it: `4,812`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Refuses what would be more than a person may have meant, counted with what went within the last hour.
pub(crate) fn refuse_mass(space: &OpenSpace, kv: &impl Kv, loss: Loss, planned: u64) -> Result<(), NodeError> {
    let totals = Trash::of(space.id()).totals(kv).map_err(MetaError::reading)?;
    let answered = *space.opened().answered.lock().expect("never poisoned");
    let lately = Turnover::of(space.id())
        .lately(kv, latest(space, kv)?, answered.max(totals.accepted))
        .map_err(MetaError::reading)?;
    let of = totals.files + lately;
    if space.rails.share.is_exceeded(planned + lately, of) {
        return Err(NodeError::Mass(MassChange {
            loss,
            planned,
            lately,
            of,
        }));
    }
    Ok(())
}

/// The person has said yes to what was just done. Of several machines of theirs one more has to hear it, unless nothing of it can be brought back.
pub(crate) async fn answer(space: &OpenSpace, fate: Fate) -> Result<(), NodeError> {
    let task = space.clone();
    let clock = Shared::blocking(move || latest(&task, &task.read()?)).await?;
    *space.opened().answered.lock().expect("never poisoned") = clock;
    let me = space.user;
    let machines = space.with_control(|control| control.roster.nodes().filter(|(_, user)| *user == me).count());
    if machines > 1 && !matches!(fate, Fate::Freed) {
        return Ok(());
    }
    accept(space).await
}

/// What was removed and overwritten up to now is as the person wants it.
pub(crate) async fn accept(space: &OpenSpace) -> Result<(), NodeError> {
    if space.is_partial() {
        // It is for those to say who have all of the space.
        return Ok(());
    }
    let task = space.clone();
    let until = Shared::blocking(move || latest(&task, &task.read()?)).await?;
    let mut batch = Batch::default();
    batch.changes.push(Change::Accept { until });
    names::write(space, batch).await?;
    names::replicate(space).await.map(drop)
}

/// How much the trash holds, and what a person has yet to answer for.
pub(crate) async fn look(space: &OpenSpace) -> Result<(TrashInfo, Vec<Mass>), NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let kv = task.read()?;
        let totals = Trash::of(task.id()).totals(&kv).map_err(MetaError::reading)?;
        let masses = match totals.kept {
            0 => Vec::new(),
            // They are asked who have all of the space.
            _ if task.is_partial() => Vec::new(),
            _ => Turnover::of(task.id())
                .masses(&kv, totals.accepted, task.rails.share)
                .map_err(MetaError::reading)?,
        };
        let info = TrashInfo {
            files: totals.kept,
            bytes: totals.kept_bytes,
        };
        Ok((info, masses))
    })
    .await
}

/// The clock of the last entry that is known here, or the time if that is later.
fn latest(space: &OpenSpace, kv: &impl Kv) -> Result<Timestamp, NodeError> {
    let frontier = Log::of(space.id()).frontier(kv).map_err(MetaError::reading)?;
    let clocks = frontier.values().map(|position| position.clock);
    Ok(clocks.fold(space.now(), Timestamp::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_questions_read_as_people_write_them() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
        let mut change = MassChange {
            loss: Loss::Remove,
            planned: 4812,
            lately: 0,
            of: 5000,
        };
        assert_eq!(
            change.to_string(),
            "this would remove 4,812 of 5,000 files of your space"
        );
        change.lately = 10;
        change.loss = Loss::Overwrite;
        assert!(change.to_string().ends_with("4,822 of 5,000"), "{change}");
    }
}
