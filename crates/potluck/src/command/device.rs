//! The machines of one person: letting one more in, and taking lost ones out.

use super::{
    pool,
    space::say,
    status::{self, state},
};
use crate::{
    cli,
    complaint::{Complaint, Kind},
    local::{client, message::Request},
    place::escape,
    terminal::{Terminal, count, table},
};
use potluck_node::{Followed, NodeInfo, Reconciled, Revoked, Rival, Status};
use potluck_types::{Clock, NodeId, SystemClock};
use std::{collections::BTreeSet, path::Path};

/// `potluck device`.
pub(super) fn run(home: &Path, wish: cli::Device, terminal: Terminal) -> Result<(), Complaint> {
    match wish {
        cli::Device::Add { uses, expires } => pool::invite(home, uses, expires, true, terminal),
        cli::Device::Ls => list(home, terminal),
        cli::Device::Revoke { machines } => revoke(home, &machines, terminal),
        cli::Device::Follow { machine } => follow(home, &machine, terminal),
        cli::Device::Reconcile { which } => reconcile(home, which.as_deref(), terminal),
    }
}

fn mine(status: &Status) -> impl Iterator<Item = &NodeInfo> {
    status.nodes.iter().filter(|node| node.user == status.identity.user)
}

fn list(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let status = status::ask(home)?;
    let machines: Vec<&NodeInfo> = mine(&status).collect();
    terminal.result(&machines, || {
        let now = SystemClock.now();
        let heading = ["NAME", "ID", "STATE", "USED", "OF"].map(str::to_owned).to_vec();
        let row = |node: &&NodeInfo| {
            vec![
                node.name
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |name| escape(name.as_str())),
                node.id.short(),
                state(node, now),
                node.used.to_string(),
                node.capacity.to_string(),
            ]
        };
        table(
            &std::iter::once(heading)
                .chain(machines.iter().map(row))
                .collect::<Vec<_>>(),
        )
    });
    for rival in &status.rivals {
        terminal.warn(&told_apart(rival, &status));
    }
    Ok(())
}

/// Where the key was replaced apart from this machine.
fn told_apart(rival: &Rival, status: &Status) -> String {
    let what = format!(
        "Your key was replaced a second time, at {}, where it was not known that this machine goes by another. Its id is {}. It takes out, too: {}. It keeps: {}.",
        rival.at,
        rival.id.short(),
        called(&rival.takes_out, status),
        called(&rival.keeps, status)
    );
    let then = match rival.can_be_reconciled {
        true => format!(
            "If that was you, on another machine of yours, put one key in the place of both: potluck device reconcile {}\nIf it was not, whoever has a lost machine did it: revoke what they have, and leave it at that.",
            rival.id.short()
        ),
        false => "It has no key for this machine, so this one cannot make it good. If that was you, `potluck device reconcile` does it on a machine that both keep, if there is one. If it was not, whoever has a lost machine did it. Those who heard of it first go by it.".to_owned(),
    };
    format!("{what}\n{then}")
}

/// What people call these machines; with their ids, where others have the same name.
fn called(nodes: &[NodeId], status: &Status) -> String {
    let called = nodes.iter().map(|node| {
        let Some(known) = status.nodes.iter().find(|info| info.id == *node) else {
            return node.short();
        };
        let others = status.nodes.iter().filter(|info| info.id != *node);
        match known.name.is_some() && others.map(|info| &info.name).any(|name| *name == known.name) {
            true => format!("{} ({})", escape(&known.called()), node.short()),
            false => escape(&known.called()),
        }
    });
    match called.collect::<Vec<_>>() {
        none if none.is_empty() => "nothing".to_owned(),
        names => names.join(", "),
    }
}

fn revoke(home: &Path, named: &[String], terminal: Terminal) -> Result<(), Complaint> {
    let status = status::ask(home)?;
    let gone: BTreeSet<NodeId> = named
        .iter()
        .map(|named| find(&status, named))
        .collect::<Result<_, _>>()?;
    let stays: BTreeSet<NodeId> = mine(&status)
        .map(|node| node.id)
        .filter(|node| !gone.contains(node))
        .collect();
    let all = |nodes: &BTreeSet<NodeId>| called(&nodes.iter().copied().collect::<Vec<_>>(), &status);
    let name = all(&gone);
    terminal.confirm(&format!(
        "Take {name} out of your hands? {} lost, your key is replaced, and your links end. These stay yours, and are given another key: {}. Is each of them in your hands?",
        if gone.len() == 1 {
            "It is out for good: what only it holds is"
        } else {
            "They are out for good: what only they hold is"
        },
        all(&stays)
    ))?;
    let revoked: Revoked = client::call(home, &Request::Revoke { nodes: gone, stays })?;
    say(terminal, &revoked, || told(&name, &revoked, &status));
    Ok(())
}

/// The machine that someone means, if it is theirs to take out.
fn find(status: &Status, named: &str) -> Result<NodeId, Complaint> {
    // One that left, or was forgotten, is not in the list, and has the key all the same.
    let node = match named.parse::<NodeId>() {
        Ok(id) if status.nodes.iter().all(|node| node.id != id) => return Ok(id),
        _ => pool::find(status, named)?,
    };
    if node.id == status.identity.node {
        return Err(Complaint::usage("that is this machine")
            .hint("do it on another one of yours")
            .hint("`potluck leave` ends its membership, and moves its data to the others first"));
    }
    if node.user != status.identity.user {
        let message = format!("{} is another person's", escape(&node.called()));
        return Err(Complaint::new(Kind::Refused, message)
            .hint("only they can take it out of the pool; `potluck unshare` takes a person out of a space"));
    }
    Ok(node.id)
}

fn reconcile(home: &Path, named: Option<&str>, terminal: Terminal) -> Result<(), Complaint> {
    let status = status::ask(home)?;
    let fits = |rival: &&Rival| named.is_none_or(|named| named.len() >= 6 && rival.id.to_string().ends_with(named));
    let rivals: Vec<&Rival> = status.rivals.iter().filter(fits).collect();
    if let Some(named) = named.filter(|_| rivals.is_empty()) {
        let message = format!(
            "your key was not replaced apart from this machine by one that is called `{}`",
            escape(named)
        );
        return Err(Complaint::new(Kind::NotFound, message).hint("`potluck device ls` shows their ids"));
    }
    let which = match &rivals[..] {
        [rival] if rival.can_be_reconciled => {
            let stays = mine(&status).map(|node| node.id);
            let stays: Vec<NodeId> = stays
                .filter(|node| *node == status.identity.node || !rival.takes_out.contains(node))
                .collect();
            terminal.confirm(&format!(
                "Was it you who took out {} on another machine? Then these stay yours, and all others are out: {}. Machines that have come since where the other one counts need a new ticket.",
                called(&rival.takes_out, &status),
                called(&stays, &status)
            ))?;
            Some(rival.id)
        }
        // The daemon says what is wrong.
        _ => rivals.first().filter(|_| rivals.len() == 1).map(|rival| rival.id),
    };
    let reconciled: Reconciled = client::call(home, &Request::Reconcile { which })?;
    say(terminal, &reconciled, || {
        let mut lines = vec![format!(
            "Your key is another, and these machines are out of your hands: {}.",
            called(&reconciled.lost, &status)
        )];
        lines.extend(left(&reconciled.away, &reconciled.unreached, &status));
        lines.push(
            "Machines that came since where the other one counted need a new ticket: potluck device add".to_owned(),
        );
        lines.join("\n")
    });
    Ok(())
}

fn follow(home: &Path, named: &str, terminal: Terminal) -> Result<(), Complaint> {
    let status = status::ask(home)?;
    let node = pool::find(&status, named)?;
    let name = escape(&node.called());
    if node.id == status.identity.node {
        return Err(
            Complaint::usage("that is this machine").hint("say it on a machine whose `potluck status` names this one")
        );
    }
    if !status.parted.contains(&node.id) {
        terminal.result(&Followed { node: node.id, spaces: 0, dropped: 0 }, || {
            format!("Nothing that {name} writes is known to be refused here: there is nothing to be done. `potluck status` says when there is.")
        });
        return Ok(());
    }
    terminal.confirm(&format!(
        "Was {name} restored from a backup, or an older image of its disk? Then take what it stands by: what is known here of it and is not in that is dropped, and {name} says that it has said all of that again. If it was not restored, somebody may have its key, and could undo with that what it has ever written: `potluck device revoke`."
    ))?;
    let followed: Followed = client::call(home, &Request::Follow { node: node.id })?;
    say(terminal, &followed, || match followed.spaces {
        0 => format!("What is kept here of {name} is what it stands by by now."),
        spaces => format!(
            "{name} is followed in {}: {} that it has given up {} dropped here.",
            count(spaces, "space"),
            count(followed.dropped, "entry"),
            if followed.dropped == 1 { "is" } else { "are" }
        ),
    });
    Ok(())
}

/// Machines that have not got the next key yet.
fn left(away: &[NodeId], unreached: &[NodeId], status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if !away.is_empty() {
        lines.push(format!(
            "Not here, and given the key when they are: {}.",
            called(away, status)
        ));
    }
    if !unreached.is_empty() {
        lines.push(format!(
            "These could not be given the key, since they have run no version yet that takes one: {}. Forget them, and let them join again with a new home: potluck forget, potluck device add",
            called(unreached, status)
        ));
    }
    lines
}

fn told(name: &str, revoked: &Revoked, status: &Status) -> String {
    let mut lines = vec![match revoked.nodes.len() {
        1 => format!("{name} is no machine of yours any more, and your key is another."),
        _ => format!("{name} are no machines of yours any more, and your key is another."),
    }];
    lines.extend(left(&revoked.away, &revoked.unreached, status));
    let out = if revoked.nodes.len() == 1 { "it" } else { "they" };
    lines.push(match revoked.of_others {
        0 => format!("{} of yours: what is written from now on {out} cannot read.", count(revoked.spaces, "space")),
        others => format!(
            "{} of yours: what is written from now on {out} cannot read. The same holds for {} of others once their machines hear of it.",
            count(revoked.spaces, "space"),
            count(others, "space")
        ),
    });
    if revoked.links > 0 {
        lines.push(format!(
            "Your links were known there, and have ended ({}): make others with `potluck link`.",
            revoked.links
        ));
    }
    lines.push(format!(
        "What was there until now {out} may have kept: names, content, and the keys to it."
    ));
    lines.push(
        "Recovery kits and tickets for machines of yours that you made before bring nobody in any more. Make another kit: potluck keys backup FILE"
            .to_owned(),
    );
    lines.join("\n")
}
