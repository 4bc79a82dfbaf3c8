//! Some of several things did not work: each is told, and the others go on.

use crate::{
    complaint::Complaint,
    place::escape,
    terminal::{Terminal, count},
};
use serde::Serialize;

/// Failures that are told one by one; the rest is counted.
const TOLD_MAX: usize = 20;

/// A file that was not put, fetched, printed or removed.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    /// Which.
    pub(crate) path: String,
    /// Why.
    pub(crate) complaint: Complaint,
}

/// Says what failed, before the result.
pub(super) fn tell(failed: &[Failure], terminal: Terminal) {
    for failure in failed.iter().take(TOLD_MAX) {
        let Failure { path, complaint } = failure;
        terminal.warn(&escape(&if complaint.message.contains(path) {
            complaint.message.clone()
        } else {
            format!("{path}: {}", complaint.message)
        }));
    }
    match failed.len().saturating_sub(TOLD_MAX) as u64 {
        0 => {}
        more => terminal.warn(&format!("and {}", count(more, "other"))),
    }
}

/// What a command says in the end: that some failed, with the kind and the hints of the first. `done` is "removed", for example.
pub(super) fn sum_up(failed: Vec<Failure>, done: &str) -> Result<(), Complaint> {
    let failures = failed.len() as u64;
    match failed.into_iter().next() {
        None => Ok(()),
        Some(Failure { complaint, .. }) => Err(Complaint {
            message: format!("{} could not be {done}", count(failures, "file")),
            ..complaint
        }),
    }
}
