//! What a person should do about what is wrong.

use crate::api::{HealthInfo, NodeInfo, NodeStatus};
use potluck_spaces::Path;

/// One sentence for each thing.
pub(super) fn advice(
    nodes: &[NodeInfo],
    health: &HealthInfo,
    domains: usize,
    unreadable: &[Path],
    is_leaving: bool,
) -> Vec<String> {
    let mut advice = Vec::new();
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
            Some(path) => format!("Put {path} and the other files that cannot be read again, or remove them: what is left of them does not suffice."),
            None => format!(
                "{} cannot be read: too few shards are left. `potluck status` on a machine of their owner names the files, to be put again.",
                stripes(unusable)
            ),
        });
    }
    if health.waiting.contains_key("no-domain") {
        advice.push(
            "Some data has fewer copies than it was made for, and no machine is free to take more: add a machine, or bring one back. One of yours that is lost for good: `potluck forget NODE`."
                .to_owned(),
        );
    }
    if health.waiting.contains_key("grace") && !away.is_empty() {
        advice.push(format!(
            "Waiting for {} to come back before making their shards anew.",
            away.join(", ")
        ));
    }
    if nodes.len() == 1 {
        advice
            .push("This pool is one machine: nothing survives its loss. `potluck invite` asks another in.".to_owned());
    } else if domains < nodes.len() && domains <= 1 {
        advice.push("Only one failure domain has room: data survives no loss.".to_owned());
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
