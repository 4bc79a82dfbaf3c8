//! Inviting, leaving, stopping.

use super::status;
use crate::{
    complaint::{Complaint, Kind},
    interrupt,
    local::{client, message::Request},
    place::escape,
    span::Span,
    terminal::{Terminal, count},
};
use potluck_node::{HealthInfo, Invitation, InviteOptions, LeaveProgress, NodeInfo, NodeStatus, Status};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use std::{
    io::IsTerminal,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How often a departure is looked at.
const LEAVE_POLL: Duration = Duration::from_millis(500);
/// How often in a row it must look finished: the plan for a departure is made after it was asked for.
const LEAVE_LOOKS: u32 = 4;
/// How long a departure may stand still before its cause is told.
const LEAVE_STILL: Duration = Duration::from_secs(30);
/// How long the daemon may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// `potluck invite`.
pub(super) fn invite(home: &Path, uses: u32, expires: Span, mine: bool, terminal: Terminal) -> Result<(), Complaint> {
    if mine {
        terminal.confirm(
            "Whoever joins with this ticket becomes you: reads and changes all your files. Is it for a machine of yours?",
        )?;
    }
    let options = InviteOptions {
        uses,
        expires: expires.duration(),
        mine,
    };
    let invitation: Invitation = client::call(home, &Request::Invite { options })?;
    terminal.result(&invitation, || invitation.ticket.clone());
    if std::io::stdout().is_terminal()
        && let Ok(code) = QrCode::with_error_correction_level(invitation.ticket.to_uppercase(), EcLevel::L)
    {
        terminal.note(&code.render::<Dense1x2>().quiet_zone(true).build());
    }
    let whose = if mine {
        "one of your machines"
    } else {
        "another person's machine"
    };
    terminal.note(&format!(
        "\nOn {whose}: potluck join TICKET\nIt lets {} in, until {}. Keep it secret until then.",
        count(invitation.uses.into(), "machine"),
        invitation.expires
    ));
    if !mine {
        terminal.note("For one more machine of yours, which is to see your files: potluck invite --mine");
    }
    Ok(())
}

/// `potluck leave`.
pub(super) fn leave(home: &Path, force: bool, terminal: Terminal) -> Result<(), Complaint> {
    let status = status::ask(home)?;
    if !force && others_here(&status) == 0 {
        let message = "no other machine is here to take what this node holds";
        return Err(Complaint::new(Kind::Refused, message)
            .hint("bring one back (`potluck status` shows them), or ask one in: `potluck invite`")
            .hint("`potluck leave --force` leaves all the same"));
    }
    let is_last = status
        .nodes
        .iter()
        .all(|node| node.status == NodeStatus::Here || node.user != status.identity.user);
    let mut question = if force {
        "Leave the pool at once? What only this node holds is lost.".to_owned()
    } else {
        "Leave the pool? This node's data moves to the others first.".to_owned()
    };
    if others_here(&status) == 1 {
        question.push_str(" One machine is left then: nothing survives its loss.");
    }
    if is_last {
        question.push_str(" It is your last machine here: nobody can read your files without a recovery kit (`potluck keys backup FILE`).");
    }
    terminal.confirm(&question)?;
    client::call::<()>(home, &Request::Leave)?;
    if !force {
        interrupt::on_interrupt(move || {
            terminal.note("\nInterrupted. This node goes on handing over what it holds, and stays until `potluck leave` is said again; `potluck leave --cancel` takes it back.");
        });
        drain(home, terminal)?;
    }
    let others = others_here(&status::ask(home)?);
    client::call::<()>(home, &Request::Part)?;
    wait_for_end(home)?;
    terminal.result(&serde_json::json!({ "left": true, "remaining": others }), || {
        let alone = match others {
            1 => " One machine is left: nothing survives its loss.",
            _ => "",
        };
        let home = home.display();
        let rest = if is_last {
            format!("{home} holds your key: keep it, or a recovery kit; the rest of it may be deleted.")
        } else {
            format!("{home} may be deleted.")
        };
        format!("This node has left the pool. {rest}{alone}")
    });
    Ok(())
}

/// `potluck leave --cancel`.
pub(super) fn stay(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    client::call::<()>(home, &Request::Stay)?;
    terminal.result(&serde_json::json!({ "left": false }), || {
        "This node stays in the pool.".to_owned()
    });
    Ok(())
}

fn drain(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let (mut least, mut work, mut moved, mut looks) = (u64::MAX, None, Instant::now(), 0);
    loop {
        let progress: LeaveProgress = client::call(home, &Request::LeaveProgress)?;
        let status: Status = client::call(home, &Request::Status)?;
        if !progress.is_leaving {
            return Err(Complaint::new(
                Kind::Refused,
                "this node stays: its departure was taken back",
            ));
        }
        let left = progress.shards_left;
        looks = if left == 0 { looks + 1 } else { 0 };
        if looks >= LEAVE_LOOKS {
            return Ok(());
        }
        if left < least {
            least = left;
            moved = Instant::now();
            if least > 0 {
                terminal.note(&format!("{} left to move", count(least, "stripe")));
            }
        }
        // A large file that is coded anew, or much that is copied, shows here long before less is left.
        let health = &status.health;
        let now = Some((health.recoding, health.stripes(), health.repair_written));
        if work != now {
            work = now;
            moved = Instant::now();
        }
        if moved.elapsed() > LEAVE_STILL {
            client::call::<()>(home, &Request::Stay)?;
            return Err(stuck(left, &status.health));
        }
        thread::sleep(LEAVE_POLL);
    }
}

/// How many other nodes are here, and stay.
fn others_here(status: &Status) -> usize {
    let nodes = status.nodes.iter();
    nodes.filter(|node| node.status == NodeStatus::Live).count()
}

/// Why a departure was given up, and what would have been lost.
fn stuck(left: u64, health: &HealthInfo) -> Complaint {
    let message = match left {
        1 => "1 stripe cannot be moved: without this node it survives fewer losses, or is lost. It stays".to_owned(),
        left => format!(
            "{left} stripes cannot be moved: without this node they survive fewer losses, or are lost. It stays"
        ),
    };
    let causes = status::causes(health).into_iter();
    let complaint = causes.fold(Complaint::new(Kind::Refused, message), Complaint::hint);
    complaint
        .hint("add a machine first (`potluck invite`), bring back one that is away, or try again later")
        .hint("`potluck leave --force` leaves all the same")
}

/// So much of the end of an id means a node: less may be a slip of the finger.
const ID_END_CHARS: usize = 4;

/// The node that a person means by its name, or by its id or the end of it.
pub(super) fn find<'s>(status: &'s Status, named: &str) -> Result<&'s NodeInfo, Complaint> {
    let fits = |node: &&NodeInfo| {
        let is_name = node.name.as_ref().is_some_and(|name| name.as_str() == named);
        is_name || named.len() >= ID_END_CHARS && node.id.to_string().ends_with(named)
    };
    let found: Vec<&NodeInfo> = status.nodes.iter().filter(fits).collect();
    match found[..] {
        [node] => Ok(node),
        _ => {
            let message = match found.len() {
                0 => format!("no node of this pool is called `{}`", escape(named)),
                some => format!("{some} nodes are called `{}`, or end in it", escape(named)),
            };
            Err(Complaint::new(Kind::NotFound, message).hint("`potluck status` shows them"))
        }
    }
}

/// `potluck forget`.
pub(super) fn forget(home: &Path, named: &str, force: bool, terminal: Terminal) -> Result<(), Complaint> {
    let status = status::ask(home)?;
    let node = find(&status, named)?;
    if node.status == NodeStatus::Here {
        return Err(Complaint::usage("that is this node").hint("`potluck leave` moves its data to the others first"));
    }
    if node.user != status.identity.user {
        let message = format!("node {} is another person's", node.called());
        return Err(Complaint::new(Kind::Refused, message).hint("only they can take it out of the pool"));
    }
    if node.status != NodeStatus::Away && !force {
        return Err(Complaint::new(Kind::Refused, format!("node {} is here", node.called()))
            .hint("`potluck leave` there moves its data to the others first")
            .hint("`--force` takes it out all the same"));
    }
    let name = node.called();
    terminal.confirm(&format!(
        "Take {name} out of the pool? What only it holds is lost, and it needs a new ticket to come back. If somebody else may have it: `potluck device revoke` replaces your key, too."
    ))?;
    client::call::<()>(home, &Request::Forget { node: node.id })?;
    terminal.result(&serde_json::json!({ "forgotten": node.id }), || {
        format!("{name} is no member any more. What it held is made anew from the rest.")
    });
    Ok(())
}

/// `potluck sweep`.
pub(super) fn sweep(home: &Path, abandoned_after: Span, terminal: Terminal) -> Result<(), Complaint> {
    let request = Request::Sweep {
        abandoned_after: abandoned_after.duration(),
    };
    let stripes: u64 = client::call(home, &request)?;
    terminal.result(&serde_json::json!({ "stripes": stripes }), || {
        match (terminal.quiet, stripes) {
            (true, _) => String::new(),
            (false, 0) => "No upload has left anything, and nothing in the trash is over its time.".to_owned(),
            (false, _) => format!("Freeing {} that no file uses any more.", count(stripes, "stripe")),
        }
    });
    Ok(())
}

/// `potluck stop`.
pub(super) fn stop(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    client::call::<()>(home, &Request::Stop)?;
    wait_for_end(home)?;
    terminal.result(&serde_json::json!({ "stopped": true }), || {
        if terminal.quiet {
            String::new()
        } else {
            "Stopped.".to_owned()
        }
    });
    Ok(())
}

/// Until the daemon has let go of the home.
fn wait_for_end(home: &Path) -> Result<(), Complaint> {
    let begun = Instant::now();
    let lock = home.join("lock");
    loop {
        let is_free = std::fs::File::open(&lock).map_or(true, |file| {
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
        });
        if is_free {
            return Ok(());
        }
        if begun.elapsed() > STOP_TIMEOUT {
            return Err(Complaint::failed("the daemon was told to end, and has not ended yet")
                .hint("`potluck doctor` names its process"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
