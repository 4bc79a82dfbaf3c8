//! `potluck space`: making, naming and removing spaces.

use super::{people, trash::day};
use crate::{
    cli::{RegionList, Space},
    complaint::Complaint,
    local::{client, message::Request},
    span::Span,
    terminal::{Terminal, count, count_entries, listed as in_words, table},
};
use potluck_node::{Member, RemoveOptions, Setting, SpaceInfo, SpaceOptions, SpaceRemoval};
use potluck_types::{ByteSize, SpaceName};
use serde::Serialize;
use std::{path::Path, time::Duration};

/// `potluck space`.
pub(super) fn run(home: &Path, wish: Space, terminal: Terminal) -> Result<(), Complaint> {
    match wish {
        Space::Create {
            name,
            survive,
            keep_versions,
            quota,
            region,
        } => {
            let options = SpaceOptions {
                survive: survive.map_or(Setting::Unchanged, Setting::To),
                retention: keep_versions.map_or(Setting::Unchanged, |span| Setting::To(span.duration())),
                quota: quota.map_or(Setting::Unchanged, Setting::To),
                regions: region.map_or(Setting::Unchanged, |RegionList(regions)| Setting::To(regions)),
                confirmed: false,
            };
            let info: SpaceInfo = client::call(home, &Request::CreateSpace { name, options })?;
            say(terminal, &info, || {
                let name = &info.name;
                format!(
                    "The space {name} is there, on all machines of yours. Put something into it: potluck put FOLDER {name}:/"
                )
            });
        }
        Space::Set {
            name,
            survive,
            keep_versions,
            quota,
            region,
        } => {
            let options = SpaceOptions {
                survive: survive.unwrap_or_default(),
                retention: keep_versions.unwrap_or_default().map(Span::duration),
                quota: quota.unwrap_or_default(),
                regions: region.unwrap_or_default().map(|RegionList(regions)| regions),
                confirmed: false,
            };
            let info: SpaceInfo = terminal.insist(|confirmed| {
                let options = SpaceOptions {
                    confirmed,
                    ..options.clone()
                };
                let name = name.clone();
                client::call(home, &Request::SetSpace { name, options })
            })?;
            say(terminal, &info, || {
                format!("{}: {}.", info.name, held(&info).join("; "))
            });
        }
        Space::Ls { removed } => {
            let spaces: Vec<SpaceInfo> = client::call(home, &Request::Spaces { removed })?;
            terminal.result(&spaces, || listed(&spaces));
        }
        Space::Info { name } => {
            let info: SpaceInfo = client::call(home, &Request::SpaceInfo { name: name.clone() })?;
            let members: Vec<Member> = match name.is_home() {
                true => Vec::new(),
                false => client::call(home, &Request::Members { space: name })?,
            };
            let value = InDetail {
                info: &info,
                members: &members,
            };
            terminal.result(&value, || described(&info, &members));
        }
        Space::Mv { from, to } => {
            client::call::<()>(
                home,
                &Request::RenameSpace {
                    from: from.clone(),
                    to: to.clone(),
                },
            )?;
            say(terminal, &serde_json::json!({ "name": to }), || {
                format!("{from} is called {to} now.")
            });
        }
        Space::Rm { name, now } => remove(home, &name, now, terminal)?,
        Space::Restore { name } => {
            let info: SpaceInfo = client::call(home, &Request::RestoreSpace { name })?;
            say(terminal, &info, || {
                format!("The space {} is back, with {}.", info.name, count(info.files, "file"))
            });
        }
    }
    Ok(())
}

/// What holds in a space.
fn held(info: &SpaceInfo) -> [String; 4] {
    let survive = match info.survive {
        Some(survive) => format!(
            "what is put there is to survive {}",
            count(survive.into(), "lost machine")
        ),
        None => "what is put there survives what is usual in the pool".to_owned(),
    };
    let keep = match info.retention {
        Some(Duration::ZERO) => "what is removed is gone at once".to_owned(),
        Some(retention) => format!(
            "what is removed can be brought back for {}",
            Span::seconds(retention.as_secs())
        ),
        None => "what is removed can be brought back for as long as the configuration says".to_owned(),
    };
    let quota = match info.quota {
        Some(quota) => format!("it may hold {quota}, with what is in its trash"),
        None => "it may hold what the pool has room for".to_owned(),
    };
    let regions = match (&info.regions, info.machines_there) {
        (Some(regions), machines) => format!(
            "its data is kept in {} only, where {}",
            in_words(regions, "and"),
            match machines.unwrap_or_default() {
                0 => "no machine of the pool stands: nothing can be put".to_owned(),
                1 => "one machine of the pool stands: it survives no loss of that".to_owned(),
                machines => format!("{machines} machines of the pool stand"),
            }
        ),
        (None, _) => "its data may be on any machine of the pool".to_owned(),
    };
    [survive, keep, quota, regions]
}

pub(super) fn say(terminal: Terminal, value: &impl Serialize, text: impl FnOnce() -> String) {
    terminal.result(value, || if terminal.quiet { String::new() } else { text() });
}

fn remove(home: &Path, name: &SpaceName, now: bool, terminal: Terminal) -> Result<(), Complaint> {
    let removal: SpaceRemoval = terminal.insist(|confirmed| {
        let options = RemoveOptions {
            recursive: true,
            now,
            confirmed,
        };
        let request = Request::RemoveSpace {
            name: name.clone(),
            options,
        };
        client::call(home, &request)
    })?;
    say(terminal, &removal, || {
        let files = count(removal.files, "file");
        if !removal.is_mine {
            return format!(
                "{name} is none of your spaces any more; it stays with its owner. To have it back: potluck space restore {name}"
            );
        }
        match removal.until {
            Some(until) => format!(
                "Removed the space {name} with {files}. It can be brought back until {}: potluck space restore {name}",
                day(until)
            ),
            None => format!("Removed the space {name} with {files}, for good."),
        }
    });
    Ok(())
}

fn listed(spaces: &[SpaceInfo]) -> String {
    let heading = ["SPACE", "     FILES", "  IN TRASH", "OWNER", ""]
        .map(str::to_owned)
        .to_vec();
    let row = |info: &SpaceInfo| {
        vec![
            info.name.to_string(),
            format!("{:>10}", info.files),
            format!("{:>10}", info.trash.files),
            owner(info),
            remark(info),
        ]
    };
    table(
        &std::iter::once(heading)
            .chain(spaces.iter().map(row))
            .collect::<Vec<_>>(),
    )
}

fn owner(info: &SpaceInfo) -> String {
    match info.owner {
        _ if info.is_mine => "you".to_owned(),
        Some(owner) => info
            .owner_name
            .as_ref()
            .map_or_else(|| owner.short(), ToString::to_string),
        None => "not known here yet".to_owned(),
    }
}

/// What is not as usual.
fn remark(info: &SpaceInfo) -> String {
    match info.until {
        _ if info.is_offered => format!("shared with you: potluck accept {}", info.name),
        Some(until) => format!("removed; can be brought back until {}", day(until)),
        None if !info.is_here => "its keys are not here yet".to_owned(),
        None if !info.may_read => "you are not in it any more: nothing newer comes".to_owned(),
        None if !info.parts.is_empty() => format!("of it you may {}", people::parts(&info.parts)),
        None if !info.may_write => "you may read it".to_owned(),
        None => String::new(),
    }
}

/// A space, and who may read it.
#[derive(Serialize)]
struct InDetail<'a> {
    #[serde(flatten)]
    info: &'a SpaceInfo,
    members: &'a [Member],
}

fn described(info: &SpaceInfo, members: &[Member]) -> String {
    let mut text = format!("{}: {}, {}", info.name, count(info.files, "file"), ByteSize(info.bytes));
    text.push_str(&format!(
        ".\nIn its trash: {}, {}.\nWhose: {}.",
        count(info.trash.files, "version"),
        ByteSize(info.trash.bytes),
        owner(info)
    ));
    if let Some(created) = info.created {
        text.push_str(&format!("\nFounded: {created}."));
    }
    if info.survive.is_some() || info.retention.is_some() || info.quota.is_some() || info.regions.is_some() {
        text.push_str(&format!("\nWhat holds there: {}.", held(info).join("; ")));
    }
    if let Some(checkpoint) = info.checkpoint {
        text.push_str(&format!(
            "\nCheckpoint: of {}; who joins need not replay the {} before it.",
            day(checkpoint.made),
            count_entries(checkpoint.entries)
        ));
    }
    if let Some(history) = info.history {
        text.push_str(&format!(
            "\nHistory: {} of {} are here so far; the others, from before the checkpoint that the names were taken from, are being fetched.",
            history.here,
            count_entries(history.of)
        ));
    }
    text.push_str(&format!("\nId: {}", info.id));
    if members.len() > 1 {
        text.push_str(&format!("\nWho may read it:\n{}", people::members(members)));
    }
    match remark(info) {
        remark if remark.is_empty() => text,
        remark => format!("{text}\n{remark}"),
    }
}
