//! The second act: two people on two nodes share a space, change the same file while they are cut off from each other, meet again, and see both versions.

use super::Demo;
use crate::{
    command::{
        files,
        get::{self, Parts, Target},
        put::{self, Source},
    },
    complaint::Complaint,
    local::{client, message::Request},
    machines::{POLL, Plan, Pool},
    place::Place,
};
use potluck_node::{Access, Member, Person, PutOptions, SpaceInfo, SpaceOptions, Which};
use potluck_spaces::Path as SpacePath;
use potluck_types::{ByteSize, SpaceName};
use std::{fs, time::Duration};

/// How long one node may take to hear of what the other did.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Their nodes.
const ANNA: usize = 1;
const BOB: usize = 2;
const FILE: &str = "report.txt";
const AT_FIRST: &str = "What we bring: soup.\n";
const BY_ANNA: &str = "What we bring: soup, and bread.\n";
const BY_BOB: &str = "What we bring: soup, and a cake.\n";

impl Demo {
    /// Plays it in a pool of its own. Gives the names that both people see in the end.
    pub(super) fn share(&self) -> Result<Vec<String>, Complaint> {
        let plan = Plan {
            folder: self.pool.folder().join("people"),
            name: "two-people",
            nodes: 2,
            machines: &["annas-laptop", "bobs-desktop"],
            are_one_person: false,
            capacity: ByteSize(1 << 30),
            grace: "1h",
        };
        let pool = Pool::new(plan, false)?;
        self.say("\nTwo people: Anna on one node, Bob on another, in a pool of their own.");
        pool.start()?;
        let stage = Stage {
            demo: self,
            pool: &pool,
            space: "work"
                .parse()
                .map_err(|_| Complaint::failed("`work` is no name of a space"))?,
        };
        stage.meet()?;
        stage.part()?;
        stage.compare()
    }
}

struct Stage<'a> {
    demo: &'a Demo,
    pool: &'a Pool,
    space: SpaceName,
}

impl Stage<'_> {
    /// Anna lets Bob into a space, and he reads what she has put there.
    fn meet(&self) -> Result<(), Complaint> {
        let (anna, bob) = (self.pool.home(ANNA), self.pool.home(BOB));
        for (home, name) in [(&anna, "anna"), (&bob, "bob")] {
            let name = name.parse().map_err(|_| Complaint::failed("no name for a person"))?;
            client::call::<()>(home, &Request::CallMe { name })?;
        }
        let name = self.space.clone();
        let _: SpaceInfo = client::call(
            &anna,
            &Request::CreateSpace {
                name,
                options: SpaceOptions::default(),
            },
        )?;
        self.put(ANNA, AT_FIRST)?;
        self.pool.until(TIMEOUT, POLL, "Anna's node does not hear of Bob", || {
            let people: Vec<Person> = client::call(&anna, &Request::People)?;
            let is_bob = |person: &Person| person.called() == "bob" && person.can_be_let_in;
            Ok(people.iter().any(is_bob))
        })?;
        let access = Access {
            may_write: true,
            ..Access::default()
        };
        let share = Request::Share {
            space: self.space.clone(),
            with: "bob".to_owned(),
            prefix: None,
            access,
        };
        let _: Member = client::call(&anna, &share)?;
        self.pool
            .until(TIMEOUT, POLL, "Bob's node does not hear of the space", || {
                let accept = Request::Accept {
                    offer: self.space.to_string(),
                    called: None,
                };
                Ok(client::call::<SpaceInfo>(&bob, &accept).is_ok())
            })?;
        self.pool.until(TIMEOUT, POLL, "Bob does not see the file", || {
            Ok(self.names(BOB)?.iter().any(|name| name == FILE))
        })?;
        if self.read(BOB, FILE)? != AT_FIRST {
            return Err(Complaint::failed("Bob reads something else than Anna wrote"));
        }
        let space = &self.space;
        self.demo.say(&format!(
            "  Anna shares the space {space} with Bob, and Bob reads {space}:/{FILE}"
        ));
        Ok(())
    }

    /// Both change the file, neither with the other's node running.
    fn part(&self) -> Result<(), Complaint> {
        let addresses = [self.pool.address(ANNA)?, self.pool.address(BOB)?];
        self.pool.kill(BOB);
        self.put(ANNA, BY_ANNA)?;
        self.pool.kill(ANNA);
        self.pool.restart_at(BOB, &addresses[1])?;
        self.put(BOB, BY_BOB)?;
        self.demo
            .say("  Bob's node is killed, and Anna changes the file; then hers is, and Bob changes it, who knows nothing of that");
        self.pool.restart_at(ANNA, &addresses[0])?;
        Ok(())
    }

    /// Both see both versions, under the same names.
    fn compare(&self) -> Result<Vec<String>, Complaint> {
        let mut names = Vec::new();
        self.pool.until(TIMEOUT, POLL, "the two do not see both versions", || {
            names = self.names(ANNA)?;
            Ok(names.len() == 2 && names == self.names(BOB)?)
        })?;
        self.demo.say("They meet again, and both see both versions:");
        for name in &names {
            let text = self.read(ANNA, name)?;
            if text != self.read(BOB, name)? {
                return Err(Complaint::failed(format!(
                    "Anna and Bob do not read the same in {name}"
                )));
            }
            let place = format!("{}:/{name}", self.space);
            self.demo.say(&format!("  {place:<60} {}", text.trim_end()));
        }
        for written in [BY_ANNA, BY_BOB] {
            let mut there = names.iter().map(|name| self.read(ANNA, name));
            if !there.any(|text| text.is_ok_and(|text| text == written)) {
                return Err(Complaint::failed("what one of the two wrote is lost"));
            }
        }
        Ok(names)
    }

    fn names(&self, number: usize) -> Result<Vec<String>, Complaint> {
        let mut names = Vec::new();
        let root = Place::root_of(self.space.clone()).into();
        files::pages(&self.pool.home(number), &root, false, |page| {
            names.extend(page.entries.iter().map(|entry| entry.name.to_string()));
            Ok(())
        })?;
        Ok(names)
    }

    fn put(&self, number: usize, text: &str) -> Result<(), Complaint> {
        let local = self.pool.folder().join(FILE);
        fs::write(&local, text).map_err(|error| Complaint::io("cannot write", &local, &error))?;
        let sources = [Source {
            local: Some(local),
            path: path(FILE)?,
        }];
        let home = self.pool.home(number);
        let outcome = put::send(
            &home,
            &self.space,
            &sources,
            PutOptions::default(),
            &[],
            self.demo.terminal,
        )?;
        match outcome.failed.into_iter().next() {
            Some(failure) => Err(failure.complaint),
            None => Ok(()),
        }
    }

    fn read(&self, number: usize, name: &str) -> Result<String, Complaint> {
        let local = self.pool.folder().join("read");
        let target = Target {
            place: Place::root_of(self.space.clone()).at(&path(name)?).into(),
            local: local.clone(),
            which: Which::Latest,
            range: None,
            fsync: false,
        };
        let outcome = get::fetch(&self.pool.home(number), &target, &Parts::default(), self.demo.terminal)?;
        if let Some(failure) = outcome.failed.into_iter().next() {
            return Err(failure.complaint);
        }
        fs::read_to_string(&local).map_err(|error| Complaint::io("cannot read", &local, &error))
    }
}

fn path(name: &str) -> Result<SpacePath, Complaint> {
    format!("/{name}")
        .parse()
        .map_err(|error| Complaint::failed(format!("{name}: {error}")))
}
