//! From a long history in which a promise is broken to a short one.

use crate::{
    history::{Outcome, run},
    plan::{Plan, Scale, Step},
};

/// Histories that are tried at most.
const ATTEMPTS_MAX: usize = 200;

/// A short history that breaks a promise.
#[derive(Clone, Debug)]
pub struct Short {
    /// What is left of it, one line a step.
    pub story: Vec<String>,
    /// What comes of it.
    pub outcome: Outcome,
    /// Histories that were tried.
    pub attempts: usize,
}

/// Leaves out of a seed's history whatever it breaks a promise without. `None` when it breaks none.
pub fn shrink(seed: u64, scale: Scale) -> Option<Short> {
    let mut plan = Plan::draw(seed, scale);
    let mut outcome = run(&plan, false);
    outcome.violation.as_ref()?;
    let mut attempts = 1;
    let breaks = |plan: &Plan, attempts: &mut usize| {
        if *attempts >= ATTEMPTS_MAX {
            return None;
        }
        *attempts += 1;
        let outcome = run(plan, false);
        outcome.violation.is_some().then_some(outcome)
    };
    // Whole episodes first, the last ones before all, then single steps.
    let mut at = plan.episodes.len();
    while at > 0 {
        at -= 1;
        let mut shorter = plan.clone();
        shorter.episodes.remove(at);
        if let Some(broken) = breaks(&shorter, &mut attempts) {
            (plan, outcome) = (shorter, broken);
        }
    }
    for episode in 0..plan.episodes.len() {
        let mut at = plan.episodes[episode].steps.len();
        while at > 0 {
            at -= 1;
            let mut shorter = plan.clone();
            shorter.episodes[episode].steps.remove(at);
            if let Some(broken) = breaks(&shorter, &mut attempts) {
                (plan, outcome) = (shorter, broken);
            }
        }
    }
    Some(Short {
        story: story(&plan),
        outcome,
        attempts,
    })
}

fn story(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!(
        "{} machines of {} persons in {} failure domains",
        plan.users.len(),
        plan.users.iter().max().map_or(0, |most| most + 1),
        plan.domains.iter().max().map_or(0, |most| most + 1),
    )];
    for episode in &plan.episodes {
        let flood = if episode.is_flood {
            ", more than can be borne"
        } else {
            ""
        };
        lines.push(format!(
            "for {:?}, {:?}; machines {:?} may suffer{flood}:",
            episode.length, episode.network, episode.victims
        ));
        lines.extend(episode.steps.iter().map(|(at, step)| match step {
            Step::Work(work) => format!("  after {at:?}: {work:?}"),
            Step::Snapshot(work) => format!("  after {at:?}: a snapshot, {work:?}"),
            Step::Link(work) => format!("  after {at:?}: a link, {work:?}"),
            Step::Checkpoint { .. } => format!("  after {at:?}: a checkpoint"),
            Step::Fault { machine, fault } => format!("  after {at:?}: machine {machine} suffers {fault:?}"),
        }));
    }
    lines
}
