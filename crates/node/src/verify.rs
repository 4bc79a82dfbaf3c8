//! Whether the history of a space is as it was written: every entry signed by its machine, in order, by one who was allowed to write then, and the same on all machines that keep it.

use crate::{
    api::{Compared, Has, Problem, Verified},
    charters, checkpoint,
    error::{MetaError, NodeError},
    logs, names,
    protocol::{PoolReply, PoolRequest},
    shared::Shared,
    space::OpenSpace,
};
use potluck_crypto::derive::private_space_id;
use potluck_spaces::{AppendError, Charter, Frontier, Kv, Log, Position};
use potluck_types::{Hash, NodeId, Timestamp, limits, to_canonical};

/// Problems that are named; of more it is told how many there are.
const PROBLEMS_TOLD: usize = 100;

/// Reads all logs of a space, checks them, and compares them with what others keep.
pub(crate) async fn verify(space: &OpenSpace) -> Result<Verified, NodeError> {
    if let Err(error) = logs::catch_up(space).await {
        tracing::info!(%error, "what is checked is what is known here");
    }
    checkpoint::whole(space).await?;
    let task = space.clone();
    let (mut verified, frontier, charter) = Shared::blocking(move || check(&task)).await?;
    let mut keepers = names::keepers(space, space.id(), &space.present_view());
    // Those that are away are named, too.
    keepers.extend(names::usual_custodians(space, space.id()));
    keepers.remove(&space.me());
    let compared = keepers
        .into_iter()
        .map(|node| compare(space, node, (&frontier, charter)));
    verified.compared = futures::future::join_all(compared).await;
    Ok(verified)
}

fn check(space: &OpenSpace) -> Result<(Verified, Frontier, Option<Hash>), NodeError> {
    let kv = space.read()?;
    if names::is_unheard(space, &kv)? {
        return Err(NodeError::NamesNotHere);
    }
    let log = Log::of(space.id());
    let charter = space.charters.of(&kv, space.id())?;
    let mut frontier = Frontier::new();
    let mut set_aside = 0;
    for (device, position) in log.frontier(&kv).map_err(MetaError::reading)? {
        let end = counted(space, &charter, device).min(position.seq);
        set_aside += position.seq - end;
        let counts = match end == position.seq {
            true => Some(position),
            false => position_at(space, &kv, device, end)?,
        };
        frontier.extend(counts.map(|position| (device, position)));
    }
    let digest = (charter.digest(), frontier.iter().collect::<Vec<_>>());
    let mut verified = Verified {
        entries: 0,
        set_aside,
        machines: Vec::new(),
        // They were checked when they were read: what is not signed as it should be is none.
        records: charter.records().count() as u64,
        digest: Hash::of(&to_canonical(&digest)),
        problems: Vec::new(),
        problems_count: 0,
        compared: Vec::new(),
    };
    for (device, position) in &frontier {
        let entries = check_log(space, *device, *position, &mut verified)?;
        verified.machines.push((*device, entries));
        verified.entries += entries;
    }
    Ok((verified, frontier, charter.digest()))
}

/// The last entry of a device that counts, as far as its charter and the records of the pool say: what is beyond is offered to nobody.
pub(crate) fn counted(space: &OpenSpace, charter: &Charter, device: NodeId) -> u64 {
    let (user, is_lost) =
        space.with_control(|control| (control.roster.owner_of(device), control.roster.is_lost(device)));
    let Some(user) = user else { return 0 };
    let is_private = private_space_id(user) == space.id();
    let granted = if is_private {
        u64::MAX
    } else {
        charter.last_counting(user, device)
    };
    let end = charter.end_of(device).filter(|_| is_lost);
    granted.min(end.unwrap_or(u64::MAX))
}

/// Where a log is at an entry.
fn position_at(space: &OpenSpace, kv: &impl Kv, device: NodeId, seq: u64) -> Result<Option<Position>, NodeError> {
    let logged = Log::of(space.id()).entry(kv, device, seq).map_err(MetaError::reading)?;
    Ok(logged.map(|logged| Position {
        seq,
        hash: logged.hash(),
        clock: logged
            .open()
            .map_or_else(|_| Timestamp::default(), |(entry, _)| entry.clock),
    }))
}

/// Checks one log up to its end; gives how many entries there are.
fn check_log(space: &OpenSpace, device: NodeId, end: Position, verified: &mut Verified) -> Result<u64, NodeError> {
    let log = Log::of(space.id());
    let (mut count, mut last) = (0, None::<Position>);
    let mut note = |seq: Option<u64>, what: &str| {
        verified.problems_count += 1;
        if verified.problems.len() < PROBLEMS_TOLD {
            verified.problems.push(Problem {
                machine: Some(device),
                seq,
                what: what.to_owned(),
            });
        }
    };
    loop {
        let after = last.map_or(0, |last| last.seq);
        // A view of its own for each page: none is kept open for as long as all takes.
        let kv = space.read()?;
        let page = log.entries_after(&kv, device, after, limits::APPEND_ENTRIES_MAX);
        let page = page.map_err(MetaError::reading)?;
        if page.is_empty() || after >= end.seq {
            break;
        }
        for logged in page {
            let seq = last.map_or(1, |last| last.seq + 1);
            if seq > end.seq {
                break;
            }
            let (entry, clock) = match logged.open() {
                Ok((entry, signer)) if signer == device => {
                    let clock = entry.clock;
                    (Some(entry), clock)
                }
                Ok(_) => {
                    note(Some(seq), "it is signed by another machine");
                    (None, Timestamp::default())
                }
                Err(AppendError::Signed(_)) => {
                    note(Some(seq), "its signature is wrong");
                    (None, Timestamp::default())
                }
                Err(_) => {
                    note(Some(seq), "what it says is not what was signed");
                    (None, Timestamp::default())
                }
            };
            if let Some(entry) = entry {
                let previous = last.map(|last| last.hash);
                if entry.seq != seq || entry.space != space.id() || entry.previous != previous {
                    note(Some(seq), "it does not come after the one before it");
                }
                if last.is_some_and(|last| entry.clock <= last.clock) {
                    note(Some(seq), "its clock is not after that of the one before it");
                }
                if !charters::counts(space, &kv, device, &entry)? {
                    note(Some(seq), "who wrote it was not allowed to");
                }
                if entry.is_erasable() && entry.is_erased() && is_unsaid(&kv, log, device, seq)? {
                    note(Some(seq), "what it says is missing, and nobody has erased it");
                }
            }
            count += 1;
            last = Some(Position {
                seq,
                hash: logged.hash(),
                clock,
            });
        }
    }
    match last {
        Some(last) if last.seq == end.seq && last.hash == end.hash => {}
        _ => note(None, "its end is not what was noted of it"),
    }
    Ok(count)
}

/// Whether nobody says that an entry is erased.
fn is_unsaid(kv: &impl Kv, log: Log, device: NodeId, seq: u64) -> Result<bool, NodeError> {
    Ok(log.notices(kv, device, seq).map_err(MetaError::reading)?.is_empty())
}

/// What another machine says that it has.
async fn compare(space: &OpenSpace, node: NodeId, (ours, our_charter): (&Frontier, Option<Hash>)) -> Compared {
    let request = PoolRequest::Frontier {
        space: space.id(),
        is_chartered: true,
        // It is to say what it has.
        digest: None,
    };
    let has = match space.ask(node, &request).await {
        Ok(PoolReply::Logs { known, charter }) => match has(space, ours, &known.into_iter().collect()) {
            Ok(Has::Same) if charter != our_charter => Has::Part,
            has => has.unwrap_or(Has::Silent),
        },
        Ok(PoolReply::Frontier(known)) => has(space, ours, &known.into_iter().collect()).unwrap_or(Has::Silent),
        _ => Has::Silent,
    };
    Compared {
        machine: node,
        name: space.with_control(|control| control.roster.state(node).and_then(|state| state.name.clone())),
        has,
    }
}

fn has(space: &OpenSpace, ours: &Frontier, theirs: &Frontier) -> Result<Has, NodeError> {
    let kv = space.read()?;
    let charter = space.charters.of(&kv, space.id())?;
    // What does not count any more some still keep, and offer to nobody.
    let counts = |(device, position): &(&NodeId, &Position)| counted(space, &charter, **device) >= position.seq;
    if ours.iter().eq(theirs.iter().filter(counts)) {
        return Ok(Has::Same);
    }
    for (device, position) in theirs {
        let entry = Log::of(space.id()).entry(&kv, *device, position.seq);
        let entry = entry.map_err(MetaError::reading)?;
        // What they have and this machine has not, it cannot tell.
        if entry.is_some_and(|entry| entry.hash() != position.hash) {
            return Ok(Has::Another);
        }
    }
    Ok(Has::Part)
}
