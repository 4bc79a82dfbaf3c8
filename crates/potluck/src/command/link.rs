//! Links: making, listing and ending them.

use super::{
    keys::{self, LINK_PASSWORD},
    space::say,
    trash::{day, roots},
};
use crate::{
    cli,
    complaint::Complaint,
    local::{
        client,
        message::{Request, Source},
    },
    place::{Place, Spot, escape},
    terminal::{Terminal, count, table},
};
use potluck_node::{LinkInfo, LinkMade, LinkOptions};
use potluck_types::{ByteSize, Clock, SpaceName, SystemClock};
use std::{ops::ControlFlow, path::Path};

/// Characters of a link's id that are shown, and that suffice to mean it.
const ID_CHARS: usize = 8;

/// `potluck link`.
pub(super) fn run(home: &Path, wish: cli::Link, terminal: Terminal) -> Result<(), Complaint> {
    match (wish.wish, wish.place) {
        (Some(cli::LinkWish::Ls { space, show }), _) => list(home, space, show, terminal),
        (Some(cli::LinkWish::Revoke { link }), _) => revoke(home, link, terminal),
        (None, Some(place)) => make(home, &place, &wish.options, terminal),
        (None, None) => Err(Complaint::usage("what is the link to lead to?").hint("potluck link SPACE:/PATH")),
    }
}

fn make(home: &Path, place: &Place, wish: &cli::LinkOptions, terminal: Terminal) -> Result<(), Complaint> {
    let password = match wish.password || wish.password_file.is_some() {
        true => Some(keys::secret(
            LINK_PASSWORD,
            wish.password_file.as_deref(),
            true,
            terminal,
        )?),
        false => None,
    };
    if password.as_ref().is_some_and(|password| password.is_empty()) {
        return Err(Complaint::usage("the password is empty"));
    }
    let request = Request::Link {
        space: place.space.clone(),
        path: place.path.clone(),
        options: LinkOptions {
            until: wish.expires.map(|span| SystemClock.now() + span.duration()),
            password: password.map(|password| password.to_string()),
            readers: wish.max_downloads,
        },
    };
    let made: LinkMade = client::call(home, &request)?;
    terminal.result(&made, || made.link.clone());
    let what = match made.info.is_directory {
        true => format!(
            "{place} ({}, {}), and what comes to be there",
            count(made.files, "file"),
            ByteSize(made.bytes)
        ),
        false => format!("{place} ({} now), and always its latest version", ByteSize(made.bytes)),
    };
    let until = made
        .info
        .until
        .map_or(String::new(), |until| format!(", until {}", day(until)));
    let with = match made.info.needs_password {
        true => " and knows the password",
        false => "",
    };
    terminal.note(&format!(
        "Whoever of the pool has this link{with} may read {what}{until}:\n  potluck get LINK"
    ));
    if let Some(max) = made.info.readers_max {
        terminal.note(&format!(
            "It opens on {} at most. This machine counts them, so it must be here when one opens it first.",
            count(max.into(), "machine")
        ));
    }
    terminal.note(&format!("End it with: potluck link revoke {:.ID_CHARS$}", made.info.id));
    Ok(())
}

fn list(home: &Path, space: Option<SpaceName>, show: bool, terminal: Terminal) -> Result<(), Complaint> {
    let spaces = match space {
        Some(space) => vec![Place::root_of(space)],
        None => roots(home)?,
    };
    let heading = ["LINK", "LEADS TO", "BY", "MADE", ""].map(str::to_owned).to_vec();
    let (mut rows, mut links) = (vec![heading], Vec::new());
    for place in spaces {
        client::pages::<LinkInfo>(home, &Request::Links { space: place.space }, |page| {
            for info in page {
                match terminal.json {
                    true => terminal.value(&told(info, show)),
                    false => {
                        rows.push(row(&info));
                        links.push(info);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    if terminal.json {
        return Ok(());
    }
    if links.is_empty() {
        terminal.note("No links. `potluck link SPACE:/PATH` makes one.");
        return Ok(());
    }
    terminal.line(&table(&rows));
    for info in links.iter().filter(|_| show) {
        if let Some(link) = &info.link {
            terminal.line(&format!("{:.ID_CHARS$}  {link}", info.id));
        }
    }
    Ok(())
}

/// A link is a secret, and printed when that is asked for.
fn told(info: LinkInfo, show: bool) -> LinkInfo {
    LinkInfo {
        link: info.link.filter(|_| show),
        ..info
    }
}

fn row(info: &LinkInfo) -> Vec<String> {
    let slash = match info.is_directory {
        true if info.path.as_ref().is_some_and(|path| path != "/") => "/",
        _ => "",
    };
    let leads_to = match &info.path {
        Some(path) => format!("{}:{}{slash}", info.space, escape(path)),
        None => format!("{}: what was there is gone", info.space),
    };
    let mut remarks = Vec::new();
    if let Some(until) = info.until {
        remarks.push(format!("until {}", day(until)));
    }
    if info.needs_password {
        remarks.push("with a password".to_owned());
    }
    remarks.extend(match (info.readers, info.readers_max) {
        (Some(readers), Some(max)) => Some(format!("opened on {readers} of {}", count(max.into(), "machine"))),
        (None, Some(max)) => Some(format!("for {} at most", count(max.into(), "machine"))),
        (_, None) => None,
    });
    vec![
        format!("{:.ID_CHARS$}", info.id),
        leads_to,
        info.person.as_deref().map_or("you".to_owned(), escape),
        info.made.to_string(),
        remarks.join(", "),
    ]
}

fn revoke(home: &Path, link: String, terminal: Terminal) -> Result<(), Complaint> {
    let info: LinkInfo = client::call(home, &Request::RevokeLink { link })?;
    let info = told(info, false);
    say(terminal, &info, || {
        let path = info.path.as_deref().map_or(String::new(), escape);
        format!(
            "The link to {}:{path} opens nothing any more. Who opened it before may have kept what they read, and the keys to it.",
            info.space
        )
    });
    Ok(())
}

/// Reads a link from standard input where it is said to be there, and asks for the password of one that needs one.
pub(super) fn unlock(spot: &mut Spot, source: &cli::LinkPassword, terminal: Terminal) -> Result<(), Complaint> {
    if spot.is_on_input() {
        let text = super::read_input("the link")?;
        *spot = text.trim().parse::<Spot>()?;
    }
    if let Source::Link { password, .. } = &mut spot.from
        && spot.needs_password
    {
        let typed = keys::secret(LINK_PASSWORD, source.password_file.as_deref(), false, terminal)?;
        *password = Some(typed.to_string());
        spot.needs_password = false;
    }
    Ok(())
}
