//! What a person should do about what is wrong.

use crate::{
    api::{HealthInfo, MassIn, NodeInfo, NodeStatus, SpacePath},
    rails::thousands,
};
use potluck_types::{NodeId, Timestamp};
use std::{collections::BTreeSet, time::Duration};

/// What advice rests on.
pub(super) struct Facts<'a> {
    pub(super) nodes: &'a [NodeInfo],
    pub(super) health: &'a HealthInfo,
    /// Failure domains that new data is coded for.
    pub(super) domains: usize,
    /// Files of this person that cannot be read.
    pub(super) unreadable: &'a [SpacePath],
    pub(super) is_leaving: bool,
    /// How long those that are away now are still expected back.
    pub(super) until_gone: Option<Duration>,
    /// Whether somebody came or went just now.
    pub(super) has_changed: bool,
    /// What a person has yet to say whether they meant it.
    pub(super) masses: &'a [MassIn],
    /// Whether a copy of this node runs elsewhere.
    pub(super) is_copied: bool,
    /// Whether the person's key was replaced on two machines apart.
    pub(super) has_rivals: bool,
    /// Machines that go on with another history than the one that is kept here.
    pub(super) parted: &'a BTreeSet<NodeId>,
}

/// One sentence for each thing.
pub(super) fn advice(facts: &Facts<'_>) -> Vec<String> {
    let Facts {
        nodes,
        health,
        domains,
        unreadable,
        is_leaving,
        until_gone,
        has_changed,
        masses,
        is_copied,
        has_rivals,
        parted,
    } = *facts;
    let mut advice: Vec<String> = masses.iter().map(question).collect();
    if is_copied {
        advice.push("A copy of this node runs on another machine, and is told to stop: give it a home of its own there (`potluck join TICKET --home DIR`).".to_owned());
    }
    if has_rivals {
        advice.push("Your key was replaced twice, by machines that did not know of each other: `potluck device ls` says what each took out, and what to do.".to_owned());
    }
    for info in nodes.iter().filter(|info| parted.contains(&info.id)) {
        let called = info.called();
        advice.push(format!(
            "{called} says that it was restored from an older image of itself, and goes on with another history than the one that this machine has heard: nothing that it writes is taken here. `potluck device follow {called}` takes what it stands by."
        ));
    }
    if is_leaving {
        advice.push("This node is leaving: `potluck leave --cancel` keeps it in the pool.".to_owned());
    }
    let away: Vec<String> = nodes
        .iter()
        .filter(|info| info.status == NodeStatus::Away)
        .map(NodeInfo::called)
        .collect();
    let stripes = |count| match count {
        1 => "1 stripe".to_owned(),
        count => format!("{count} stripes"),
    };
    let unusable = health.unreadable + health.lost;
    if health.unreadable > 0 && !away.is_empty() {
        advice.push(format!(
            "{} cannot be read now: bring back one of {}.",
            stripes(health.unreadable),
            away.join(", ")
        ));
    } else if unusable > 0 && health.gathering == 0 {
        advice.push(match unreadable.first() {
            Some(path) => format!("Put {path} and the other files that cannot be read again, or remove them (`potluck rm --now`): what is left of them does not suffice."),
            None => format!(
                "{} cannot be read: too few shards are left. `potluck status` on a machine of their owner names the files, to be put again.",
                stripes(unusable)
            ),
        });
    }
    if health.waiting.contains_key("no-region") {
        advice.push(
            "Some data is to be in some regions only, and they have too few machines for it: add one there, or bring one back. `potluck explain` says of which files, `potluck space info` where they may be."
                .to_owned(),
        );
    }
    if health.waiting.contains_key("no-domain") {
        let mut remedies = "add a machine, or bring one back".to_owned();
        if let Some(left) = until_gone.filter(|left| !left.is_zero()) {
            remedies.push_str(&format!(
                "; in {} what is left of it is coded anew for the machines that are here. A machine of yours that is lost for good: `potluck forget NODE`",
                in_words(left)
            ));
        }
        advice.push(format!(
            "Some data has fewer copies than it was made for, and no machine is free to take more: {remedies}."
        ));
    }
    if health.waiting.contains_key("grace") && !away.is_empty() {
        advice.push(format!(
            "Waiting for {} to come back before making their shards anew.",
            away.join(", ")
        ));
    }
    if has_changed && nodes.len() > 1 && health.stripes() > 0 {
        advice
            .push("Who is here changed just now: what that means for older files is looked at in a moment.".to_owned());
    }
    if nodes.len() == 1 {
        advice
            .push("This pool is one machine: nothing survives its loss. `potluck invite` asks another in.".to_owned());
    } else if domains < nodes.len() && domains <= 1 {
        advice.push("Only one failure domain has room: data survives no loss.".to_owned());
    }
    for info in nodes.iter().filter(|info| info.status == NodeStatus::Doubted) {
        advice.push(format!(
            "Node {} could not prove what it says that it holds ({} of {} challenges here): its data is made anew on others, and it is given none. Look at its disk and memory; if it cannot be trusted, `potluck forget {}`.",
            info.called(),
            info.audit.wrong,
            info.audit.proved + info.audit.wrong,
            info.called()
        ));
    }
    let full = nodes
        .iter()
        .filter(|info| info.capacity.0 > 0 && info.used.0 * 100 >= info.capacity.0 * 95);
    for info in full {
        advice.push(format!(
            "Node {} is full: give it more with `--capacity`, or remove data.",
            info.called()
        ));
    }
    advice
}

/// Whether so much was meant, and what to type for either answer.
fn question(MassIn { space, mass }: &MassIn) -> String {
    let before = Timestamp::from_millis(mass.since.as_millis().saturating_sub(1)).precise();
    format!(
        "{} of {} files were removed or overwritten from {} on. `potluck restore {space}:/ --since {before}` brings them all back; `potluck trash --accept` says that you meant it. Until then they stay in the trash, however long that is.",
        thousands(mass.replaced),
        thousands(mass.of),
        mass.since,
    )
}

/// About how long, rounded up.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{} s", seconds + 1),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}
