//! Where the data of a space may be: its owner names regions, and machines say in which they stand. Members know of every such space, so a machine that stands elsewhere is given nothing
//! of it, and what it has is brought where it may be. What a machine says of itself is believed, as its zone is.

use crate::{
    charters,
    error::{MetaError, NodeError},
    names,
    records::{PoolRecord, Residence, VERSION, sign},
    shared::Shared,
    space::OpenSpace,
};
use potluck_placement::default_survive;
use potluck_spaces::{Charter, Log, Table, Trash};
use potluck_types::{
    NodeId, Region, Regions, SpaceId, limits,
    sabotage::{self, Bug},
};
use std::{collections::BTreeSet, sync::Arc};

impl Shared {
    /// The regions where the data of a space may be, when it may not be everywhere.
    pub(crate) fn regions(&self, space: SpaceId) -> Option<Regions> {
        self.with_control(|control| control.roster.confined().get(&space).cloned())
    }

    /// Whether this machine stands where the data of a space may be.
    pub(crate) fn is_inside(&self, space: SpaceId) -> bool {
        let regions = self
            .regions(space)
            .filter(|_| !sabotage::is_planted(Bug::IgnoreRegions));
        regions.is_none_or(|regions| self.region.as_ref().is_some_and(|region| regions.contains(region)))
    }

    /// Why there is nobody who takes more of a space's data.
    pub(crate) fn nobody_else(&self, space: SpaceId) -> String {
        match self.regions(space) {
            None => "no other machine is here and has room".to_owned(),
            Some(regions) => {
                let names: Vec<_> = regions.iter().map(Region::as_str).collect();
                let names = names.join(" or ");
                format!("no other machine of {names} is here and has room, and the space may be nowhere else")
            }
        }
    }

    /// How many machines stand in these regions, and in which any do.
    pub(crate) fn machines_in(&self, regions: &Regions) -> (u64, Regions) {
        self.with_control(|control| {
            let nodes = control.roster.nodes();
            let all: Vec<Region> = nodes
                .filter_map(|(node, _)| control.roster.state(node)?.region.clone())
                .collect();
            let inside = all.iter().filter(|region| regions.contains(*region)).count();
            (inside as u64, all.into_iter().collect())
        })
    }
}

impl OpenSpace {
    /// Refuses to put what can be nowhere now.
    pub(crate) fn refuse_nowhere(&self) -> Result<(), NodeError> {
        let Some(regions) = self.regions(self.id()) else {
            return Ok(());
        };
        let view = self.present_view_for(self.id());
        if view.nodes.keys().any(|node| view.counts(*node)) {
            return Ok(());
        }
        let (machines, known) = self.machines_in(&regions);
        Err(NodeError::NoRegion {
            regions,
            known,
            is_away: machines > 0,
        })
    }
}

/// Refuses what can be nowhere at all, or is too much to be said.
pub(crate) fn check(shared: &Shared, regions: &Regions) -> Result<(), NodeError> {
    let (_, known) = shared.machines_in(regions);
    if regions.len() > limits::REGIONS_MAX {
        return Err(NodeError::TooManyRegions);
    }
    // One that nobody is in is a slip, also beside others.
    let unknown: Regions = regions.difference(&known).cloned().collect();
    if !unknown.is_empty() {
        return Err(NodeError::NoRegion {
            regions: unknown,
            known,
            is_away: false,
        });
    }
    Ok(())
}

/// Says where the data of a space may be from now on: everywhere, when there are no regions. It is told to all who are here before this ends.
pub(crate) async fn say(shared: &Arc<Shared>, charter: &Charter, regions: Regions) -> Result<(), NodeError> {
    let space = charter.space();
    let (pool, last) = shared.with_control(|control| {
        let last = control
            .roster
            .residence(space)
            .map(|last| (last.at, last.regions.clone()));
        (control.roster.pool(), last)
    });
    let is_said = match &last {
        Some((_, said)) => *said == regions,
        None => regions.is_empty(),
    };
    if is_said {
        return Ok(());
    }
    check(shared, &regions)?;
    shared.refuse_old_key()?;
    shared.refuse_when_full()?;
    let user = shared.user;
    let said = shared.with_control(|control| control.roster.residences_of(user).count());
    if last.is_none() && said >= limits::RESIDENCES_PER_USER_MAX {
        return Err(NodeError::TooManyRegions);
    }
    // A clock that went back says nothing older than what was said last.
    let after = last.map(|(at, _)| at + std::time::Duration::from_millis(1));
    let residence = Residence {
        version: VERSION,
        pool,
        space,
        at: after.unwrap_or_default().max(shared.now()),
        regions,
        founding: charter.founding().cloned(),
    };
    let record = PoolRecord::Residence(sign(shared.keys().signing(), &residence));
    shared.tell_all(record).await;
    let is_taken = shared.with_control(|control| control.roster.residence(space) == Some(&residence));
    match is_taken {
        true => Ok(()),
        false => Err(NodeError::TooManyRegions),
    }
}

/// Refuses a log that may not be kept here: this machine stands elsewhere, and is not of those who read it.
pub(crate) fn refuse_outside(shared: &Shared, space: SpaceId) -> Result<(), NodeError> {
    let is_readers = shared.with_control(|control| control.is_of(shared.me(), space));
    match is_readers || shared.is_inside(space) {
        true => Ok(()),
        false => Err(NodeError::Outside),
    }
}

/// Gives up the log of a space that may not be kept here, once all who are to keep it have it.
pub(crate) async fn leave(shared: &Arc<Shared>, space: SpaceId, have_it: &BTreeSet<NodeId>) -> Result<(), NodeError> {
    // What is open here, or was, is its person's to keep, also where they may not read what comes.
    let is_open = shared.spaces.is_catalogued(space) || space == shared.spaces.private().id();
    if is_open || refuse_outside(shared, space).is_ok() {
        return Ok(());
    }
    let keepers = names::usual_custodians(shared, space);
    if keepers.is_empty() || !keepers.iter().all(|node| have_it.contains(node)) {
        return Ok(());
    }
    // With fewer than would keep it elsewhere it is less safe there: that has the same time as what is coded anew.
    let now = shared.steady();
    let (wanted, is_long) = shared.with_control(|control| {
        let members = control.roster.members().len();
        (usize::from(default_survive(members)) + 1, control.is_long_confined(now))
    });
    if keepers.len() < wanted && !is_long {
        return Ok(());
    }
    give_up(shared, space).await?;
    tracing::info!(space = %space.short(), "the log of a space that may not be kept here was given up");
    Ok(())
}

async fn give_up(shared: &Arc<Shared>, space: SpaceId) -> Result<(), NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let step = || {
            task.meta
                .write(|kv| Log::of(space).let_go(kv).map_err(MetaError::writing))
        };
        while !step()? {}
        Ok::<_, NodeError>(())
    })
    .await
}

/// Goes on where giving up a log broke off.
pub(crate) async fn leave_rest(shared: &Arc<Shared>) -> Result<(), NodeError> {
    let task = Arc::clone(shared);
    let rest = Shared::blocking(move || {
        let kv = task.read()?;
        let known = Table::Frontier.spaces(&kv).map_err(MetaError::reading)?;
        let mut rest = Table::Log.spaces(&kv).map_err(MetaError::reading)?;
        rest.retain(|space| !known.contains(space));
        Ok::<_, NodeError>(rest)
    });
    for space in rest.await? {
        if !shared.spaces.is_catalogued(space) && refuse_outside(shared, space).is_err() {
            give_up(shared, space).await?;
        }
    }
    Ok(())
}

/// The same of a space that is there. Asks first where its files would be less safe.
pub(crate) async fn set(space: &OpenSpace, regions: Regions, confirmed: bool) -> Result<(), NodeError> {
    check(space, &regions)?;
    let now = space.steady();
    let (before, after) = space.with_control(|control| {
        let before = control.at_hand(Some(space.id()), now).expected;
        let after = match regions.is_empty() {
            true => before,
            false => control.expected_within(&regions, now),
        };
        (default_survive(before), default_survive(after))
    });
    let task = space.clone();
    let totals = Shared::blocking(move || Trash::of(task.id()).totals(&task.read()?).map_err(MetaError::reading));
    if after < before && totals.await?.files > 0 && !confirmed {
        return Err(NodeError::LessSafe { regions, before, after });
    }
    let charter = charters::known(space.shared(), space.id()).await?;
    say(space.shared(), &charter, regions).await
}
