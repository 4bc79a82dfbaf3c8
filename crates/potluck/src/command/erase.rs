//! `potluck erase`: for ever, and who says that they have nothing of it any more.

use crate::{
    complaint::Complaint,
    local::{client, message::Request},
    place::{Place, escape},
    terminal::{Terminal, count, listed},
};
use potluck_node::{Erasable, Erased, Receipt, Says};
use potluck_types::ByteSize;
use std::path::Path;

/// Places that are named where the same content stays.
const STAYS_NAMED: usize = 5;

/// Erases, once it is confirmed.
pub(super) fn run(home: &Path, place: &Place, terminal: Terminal) -> Result<(), Complaint> {
    let (space, path) = (place.space.clone(), place.path.clone());
    let request = Request::Erasable {
        space: space.clone(),
        path: path.clone(),
    };
    terminal.note(&format!("Looking for all that {place} ever was."));
    let mut erasable: Erasable = client::call(home, &request)?;
    terminal.confirm(&question(place, &erasable))?;
    let known = std::mem::take(&mut erasable.known);
    let erased: Erased = client::call(home, &Request::Erase { space, path, known })?;
    terminal.result(&erased, || match terminal.quiet {
        true => String::new(),
        false => told(place, &erased),
    });
    Ok(())
}

/// Asks again about what was erased before.
pub(super) fn pending(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let asked: Vec<Erased> = client::call(home, &Request::Erasures)?;
    terminal.result(&asked, || {
        let of_each = |erased: &Erased| {
            let place = Place::root_of(erased.space.clone()).at(&erased.path);
            match erased.is_cut_off {
                true => format!(
                    "{place}, begun {}\n  This was cut off: `potluck erase {place}` goes on with it.",
                    erased.at
                ),
                false => format!("{place}, erased {}\n{}", erased.at, said(&erased.receipts)),
            }
        };
        match asked.is_empty() {
            true => "All machines have heard of all that you have erased on this one.".to_owned(),
            false => asked.iter().map(of_each).collect::<Vec<_>>().join("\n"),
        }
    });
    Ok(())
}

fn question(place: &Place, erasable: &Erasable) -> String {
    let all = match place.path.names().is_empty() {
        true => format!("everything in {}", place.space),
        false => place.to_string(),
    };
    let mut text = format!(
        "Erase {all} for ever? {}: the keys are destroyed on every machine, and nobody can bring it back, from a snapshot neither.",
        amount(erasable)
    );
    if erasable.stored_anew > 0 {
        let others = count(erasable.stored_anew, "other file");
        text.push_str(&format!(
            " {others} that lie in the same sealed pieces are stored anew."
        ));
    }
    text.push_str(&stays(place, erasable));
    text
}

/// How much that is.
fn amount(erasable: &Erasable) -> String {
    match (erasable.files, erasable.versions) {
        (0, 0) => "nothing but empty folders".to_owned(),
        (0, versions) => format!("{} of what was there", count(versions, "version")),
        (files, versions) => format!(
            "{} ({}), {} in all",
            count(files, "file"),
            ByteSize(erasable.bytes),
            count(versions, "version")
        ),
    }
}

/// What is not erased with it.
fn stays(place: &Place, erasable: &Erasable) -> String {
    let mut text = String::new();
    let named = erasable.stays_at.iter().take(STAYS_NAMED);
    let mut named: Vec<String> = named.map(|path| place.at(path).to_string()).collect();
    match erasable.stays_at.len() {
        0 => {}
        all => {
            if all > named.len() {
                named.push(format!("{} more", all - named.len()));
            }
            text.push_str(&format!(" The same content stays at {}.", listed(named, "and")));
        }
    }
    if erasable.has_parts_elsewhere {
        text.push_str(" Other files have parts of the same content, which stay there.");
    }
    if erasable.unerasable > 0 {
        text.push_str(&format!(
            " {} cannot be erased: an older version of Potluck wrote them into the log for good. They are removed.",
            count(erasable.unerasable, "version")
        ));
    }
    if erasable.links_of_others > 0 {
        text.push_str(&format!(
            " {} to it by others: whoever opens one can read it until a machine of who made it has heard of this.",
            count(erasable.links_of_others, "link")
        ));
    }
    text
}

fn told(place: &Place, erased: &Erased) -> String {
    let what = erased.what.clone().unwrap_or_default();
    let mut text = format!("Erased {place}: {}.", amount(&what));
    text.push_str(&stays(place, &what));
    text.push('\n');
    text.push_str(&said(&erased.receipts));
    text
}

/// What the machines say.
fn said(receipts: &[Receipt]) -> String {
    let these = |says: Says| -> Vec<String> {
        let those = receipts.iter().filter(|receipt| receipt.says == says);
        those.map(|receipt| escape(&receipt.called())).collect()
    };
    let clear = these(Says::Nothing).len();
    let mut lines = vec![match (clear, receipts.len()) {
        (_, 0) => "There is no other machine that could have anything of it.".to_owned(),
        (clear, all) if clear == all => format!(
            "  {} says that it has nothing of it.",
            match all {
                1 => "The other machine".to_owned(),
                all => format!("Each of the {all} other machines"),
            }
        ),
        (clear, all) => format!(
            "  {clear} of {} say that they have nothing of it.",
            count(all as u64, "other machine")
        ),
    }];
    let others = [
        (
            Says::Away,
            "is away: it drops what it has as soon as it is back and hears of it.",
            "are away: they drop what they have as soon as they are back and hear of it.",
        ),
        (
            Says::NotHeard,
            "has not heard of it yet, and may have the keys.",
            "have not heard of it yet, and may have the keys.",
        ),
        (
            Says::Sealed,
            "has sealed parts of it still, and no keys to them; it frees them within a day.",
            "have sealed parts of it still, and no keys to them; they free them within a day.",
        ),
    ];
    for (says, one, many) in others {
        match &these(says)[..] {
            [] => {}
            [name] => lines.push(format!("  {name} {one}")),
            names => lines.push(format!("  {} {many}", listed(names, "and"))),
        }
    }
    if clear < receipts.len() {
        lines.push("  `potluck erase --pending` asks them again.".to_owned());
    }
    lines.join("\n")
}
