//! People of the pool: who they are, and who is let into which space.

use super::{space::say, trash::day};
use crate::{
    complaint::Complaint,
    local::{client, message::Request},
    place::escape,
    terminal::{Terminal, count, listed, table},
};
use potluck_node::{Access, LetIn, Member, Part, Person, SpaceInfo, Status, Unshared};
use potluck_types::{SpaceName, UserName};
use serde_json::json;
use std::path::Path;

/// `potluck whoami`.
pub(super) fn whoami(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let people: Vec<Person> = client::call(home, &Request::People)?;
    let status: Status = client::call(home, &Request::Status)?;
    let me = people.into_iter().find(|person| person.is_me);
    let me = me.ok_or_else(|| Complaint::failed("this node's person is not in the pool"))?;
    let machines: Vec<String> = status
        .nodes
        .iter()
        .filter(|node| node.user == me.user)
        .map(|node| escape(&node.called()))
        .collect();
    terminal.result(
        &json!({ "user": me.user, "name": me.name, "machines": machines }),
        || {
            let name = match &me.name {
                Some(name) => name.to_string(),
                None => "no name yet: `potluck id NAME` gives you one".to_owned(),
            };
            format!("Name: {name}\nId: {}\nMachines: {}", me.user, machines.join(", "))
        },
    );
    Ok(())
}

/// `potluck id`.
pub(super) fn call_me(home: &Path, name: &UserName, terminal: Terminal) -> Result<(), Complaint> {
    client::call::<()>(home, &Request::CallMe { name: name.clone() })?;
    say(terminal, &json!({ "name": name }), || {
        format!("Others see you as {name} now.")
    });
    Ok(())
}

/// `potluck people`.
pub(super) fn list(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let people: Vec<Person> = client::call(home, &Request::People)?;
    terminal.result(&people, || {
        let heading = ["NAME", "ID", "MACHINES", ""].map(str::to_owned).to_vec();
        let row = |person: &Person| {
            let name = person.name.as_ref().map_or("-".to_owned(), UserName::to_string);
            let remark = match (person.is_me, person.can_be_let_in) {
                (true, _) => "you",
                (false, true) => "",
                (false, false) => "cannot be let into a space yet: none of their machines has said how",
            };
            let machines = format!("{:>8}", person.machines);
            vec![name, person.user.short(), machines, remark.to_owned()]
        };
        table(
            &std::iter::once(heading)
                .chain(people.iter().map(row))
                .collect::<Vec<_>>(),
        )
    });
    Ok(())
}

/// `potluck share`.
pub(super) fn share(
    home: &Path,
    space: &SpaceName,
    with: String,
    prefix: Option<potluck_node::Path>,
    access: Access,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let below = within(space, prefix.as_ref());
    let request = Request::Share {
        space: space.clone(),
        with,
        prefix,
        access,
    };
    let let_in: LetIn = client::call(home, &request)?;
    let member = &let_in.member;
    say(terminal, &let_in, || {
        let may_do = may(member.access.may_write);
        let others = match member.access.may_share {
            true => ", and let others in",
            false => "",
        };
        let until = member
            .access
            .until
            .map_or(String::new(), |until| format!(", until {}", day(until)));
        let quota = member
            .access
            .quota
            .map_or(String::new(), |quota| format!(", and put {quota} there at most"));
        let mut text = format!(
            "{} ({}) may {may_do} {below}{quota}{others}{until}. They take it with: potluck accept {space}",
            member.person.called(),
            member.person.user.short()
        );
        if !let_in.ended.is_empty() {
            let before = let_in
                .ended
                .iter()
                .map(|ended| format!("{} {}", may(ended.may_write), within(space, ended.prefix.as_ref())));
            text.push_str(&format!(
                "\nBefore, they could {}: that is over.",
                listed(before, "and")
            ));
        }
        for (people, what) in [
            (&let_in.out, "reads nothing that comes from now on"),
            (&let_in.only_read, "can only read from now on"),
        ] {
            if !people.is_empty() {
                let names = listed(people.iter().map(Person::called), "and");
                text.push_str(&format!("\nWhom they had let in {what}: {names}."));
            }
        }
        text
    });
    Ok(())
}

/// `potluck unshare`.
pub(super) fn unshare(
    home: &Path,
    space: &SpaceName,
    with: String,
    prefix: Option<potluck_node::Path>,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let below = within(space, prefix.as_ref());
    let request = Request::Unshare {
        space: space.clone(),
        with,
        prefix,
    };
    let gone: Unshared = client::call(home, &request)?;
    say(terminal, &gone, || {
        let name = gone.person.called();
        let mut text = format!(
            "{name} reads nothing that is written to {below} from now on. What was there before they may have kept: names, content, and the keys to it."
        );
        if !gone.with_them.is_empty() {
            let names = listed(gone.with_them.iter().map(Person::called), "and");
            text.push_str(&format!("\nThe same goes for whom they had let in: {names}."));
        }
        if gone.away > 0 {
            text.push_str(&format!(
                "\n{} of theirs is not here, and learns of it when it is.",
                count(gone.away, "machine")
            ));
        }
        text
    });
    Ok(())
}

/// `potluck accept`.
pub(super) fn accept(
    home: &Path,
    offer: String,
    called: Option<SpaceName>,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let info: SpaceInfo = client::call(home, &Request::Accept { offer, called })?;
    say(terminal, &info, || {
        let (may, name) = (may(info.may_write), &info.name);
        let others = match info.may_share {
            true if !info.parts.is_empty() => {
                format!("\nYou may let others in: potluck share {name} --with PERSON --prefix PATH")
            }
            true => format!("\nYou may let others in: potluck share {name} --with PERSON"),
            false => String::new(),
        };
        match info.parts.is_empty() {
            true => format!("You may {may} {name}: potluck ls {name}:/{others}"),
            false => format!(
                "Of {name} you may {}, and see nothing else: potluck ls {name}:/{others}",
                parts(&info.parts)
            ),
        }
    });
    Ok(())
}

/// What one may do with parts of a space.
pub(super) fn parts(parts: &[Part]) -> String {
    let one = |part: &Part| {
        let until = part
            .until
            .map_or(String::new(), |until| format!(" until {}", day(until)));
        format!("{} {}{until}", may(part.may_write), escape(&part.path.to_string()))
    };
    listed(parts.iter().map(one), "and")
}

/// A space, or a directory of it with what is in it.
fn within(space: &SpaceName, prefix: Option<&potluck_node::Path>) -> String {
    match prefix {
        Some(prefix) => format!("{space}:{}", escape(&prefix.to_string())),
        None => space.to_string(),
    }
}

fn may(write: bool) -> &'static str {
    if write { "read and change" } else { "read" }
}

/// Those who may read a space, one a line.
pub(super) fn members(members: &[Member]) -> String {
    let row = |member: &Member| {
        let may = match (member.is_owner, member.access.may_write) {
            (true, _) => "owner",
            (false, true) => "reads and writes",
            (false, false) => "reads",
        };
        let below = member.prefix.as_ref();
        let below = below.map_or(String::new(), |path| format!("only {}", escape(&path.to_string())));
        let until = member
            .access
            .until
            .map_or(String::new(), |until| format!("until {}", day(until)));
        let name = match member.person.is_me {
            true => format!("{} (you)", member.person.called()),
            false => member.person.called(),
        };
        let put = match member.access.quota {
            Some(quota) => format!("has put {} of {quota}", member.used),
            None => format!("has put {}", member.used),
        };
        let shares = match (&member.by, member.access.may_share && !member.is_owner) {
            (Some(by), _) => format!("let in by {}", by.called()),
            (None, true) => "lets others in".to_owned(),
            (None, false) => String::new(),
        };
        vec![format!("  {name}"), may.to_owned(), below, put, shares, until]
    };
    table(&members.iter().map(row).collect::<Vec<_>>())
}
