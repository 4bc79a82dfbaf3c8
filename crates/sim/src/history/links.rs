//! Links: people make, open and end them. Each shows what is where it leads to, soon after that has changed, and nothing once it was ended.

use super::{Broken, HEARD_AFTER, History, OPERATION_MAX, Place, pick, see, told};
use crate::{
    ledger::{Safety, Seen},
    plan::LinkWork,
};
use potluck_node::{LinkError, LinkOptions, Node, NodeError, Path};
use tokio::time::{Instant, timeout};

/// Links that there are in one history at most, with those that were ended.
const LINKS_MAX: usize = 8;
/// Files of each that are read after each episode.
const LOOKS: u64 = 3;

/// One that was made.
#[derive(Clone)]
pub(super) struct Link {
    /// Which of the history's it is.
    number: u64,
    maker: usize,
    place: Place,
    /// A file, or a folder.
    target: String,
    text: String,
    made: Instant,
    safety: Safety,
    state: State,
}

#[derive(Clone)]
enum State {
    Shows,
    /// It was tried to end it, and nobody knows whether that was done.
    MayHaveEnded,
    /// That it ended was acknowledged then.
    Ended(Instant, Safety),
}

/// What whoever opens a link sees.
enum Opened {
    File(Seen),
    /// The link was ended.
    Ended,
}

/// What a person's operation gave.
enum Done {
    Made(Box<Link>, Result<String, String>),
    Opened(String, Opened),
    Revoked(Result<(), String>),
}

/// An operation that has ended.
pub(super) struct OfLink {
    number: u64,
    machine: usize,
    begun: Instant,
    done: Done,
}

impl Link {
    /// A domain was lost, for now or for ever.
    pub(super) fn lose(&mut self, domain: usize) {
        self.safety.lose(domain);
        if let State::Ended(_, safety) = &mut self.state {
            safety.lose(domain);
        }
    }

    /// Where a file of the person is below what it shows.
    fn below(&self, path: &str) -> Path {
        let below = path.strip_prefix(&self.target).unwrap_or(path);
        below.parse().unwrap_or_default()
    }

    fn leads_to(&self, key: &(usize, String)) -> bool {
        let is_below = |rest: &str| rest.is_empty() || rest.starts_with('/');
        self.place.has(key) && key.1.strip_prefix(&self.target).is_some_and(is_below)
    }

    fn called(&self) -> String {
        let Self {
            number, place, target, ..
        } = self;
        format!("link {number} to {target} of person {}", place.owner)
    }
}

impl History {
    pub(super) fn begin_with_link(&mut self, work: LinkWork) {
        match work {
            LinkWork::Make { chance } => self.make_link(chance),
            LinkWork::Open { chance } => self.open_link(chance),
            LinkWork::Revoke { chance } => self.revoke_link(chance),
        }
    }

    /// To a folder, or to a file in it.
    fn make_link(&mut self, chance: u64) {
        let folder = format!("folder-{}", (chance >> 40) % 3);
        let maker = self.whole_in((chance % self.persons() as u64) as usize, &folder);
        let place = Place::of(self.owner_of(maker, &folder), &folder);
        let keys = self.ledger.iter();
        let files: Vec<&String> = keys
            .filter(|(key, promise)| place.has(key) && key.1.starts_with(&folder) && promise.is_there())
            .map(|((_, path), _)| path)
            .collect();
        let Some(file) = pick(&files, chance >> 44) else { return };
        let target = if chance >> 63 == 0 { (*file).clone() } else { folder };
        let Some((machine, node)) = self.node_of(maker, chance, true) else {
            return;
        };
        if self.links.len() >= LINKS_MAX {
            return;
        }
        self.links_made += 1;
        let link = Link {
            number: self.links_made,
            maker,
            place,
            target,
            text: String::new(),
            made: Instant::now(),
            safety: Safety::default(),
            state: State::Shows,
        };
        self.start_with_link(&link.clone(), machine, "is made", async move {
            let (space, path) = (place.name(), link.target.parse().expect("a path"));
            let made = node.link(&space, &path, LinkOptions::default());
            let made = told(timeout(OPERATION_MAX, made).await);
            Done::Made(Box::new(link), made.map(|made| made.link))
        });
    }

    fn open_link(&mut self, chance: u64) {
        let Some(link) = pick(&self.links, chance >> 40).cloned() else {
            return;
        };
        let Some((machine, node)) = self.node_of(self.opener_of(&link, chance), chance, false) else {
            return;
        };
        let Some(path) = self.shown_by(&link, chance >> 44) else {
            return;
        };
        self.start_with_link(&link.clone(), machine, &format!("is asked for {path}"), async move {
            let opened = open(&node, &link.text, &link.below(&path)).await;
            Done::Opened(path, opened)
        });
    }

    fn revoke_link(&mut self, chance: u64) {
        let is_known = |link: &&Link| matches!(link.state, State::Shows) && link.made.elapsed() > HEARD_AFTER;
        let known: Vec<&Link> = self.links.iter().filter(is_known).collect();
        let Some(link) = pick(&known, chance >> 40).map(|link| (*link).clone()) else {
            return;
        };
        let Some((machine, node)) = self.node_of(link.maker, chance, true) else {
            return;
        };
        if let Some(link) = self.link_mut(link.number) {
            link.state = State::MayHaveEnded;
        }
        self.start_with_link(&link.clone(), machine, "is ended", async move {
            let revoked = timeout(OPERATION_MAX, node.revoke_link(&link.text)).await;
            Done::Revoked(told(revoked).map(drop))
        });
    }

    /// Somebody else, if there is somebody.
    fn opener_of(&self, link: &Link, chance: u64) -> usize {
        let others = (self.persons() - 1) as u64;
        match others {
            0 => link.maker,
            others => (link.maker + 1 + (chance % others) as usize) % self.persons(),
        }
    }

    /// A file that a link leads to.
    fn shown_by(&self, link: &Link, chance: u64) -> Option<String> {
        let keys = self.ledger.keys().filter(|key| link.leads_to(key));
        let keys: Vec<_> = keys.collect();
        pick(&keys, chance).map(|(_, path)| path.clone())
    }

    fn link_mut(&mut self, number: u64) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.number == number)
    }

    fn start_with_link(
        &mut self,
        link: &Link,
        machine: usize,
        what: &str,
        work: impl Future<Output = Done> + Send + 'static,
    ) {
        self.outcome.operations += 1;
        self.pool
            .diary
            .tell(&format!("machine {machine}: {} {what}", link.called()));
        let (number, begun) = (link.number, Instant::now());
        self.works.spawn(async move {
            super::Finished::Link(OfLink {
                number,
                machine,
                begun,
                done: work.await,
            })
        });
    }

    pub(super) fn note_link(&mut self, finished: OfLink) -> Broken {
        let OfLink {
            number,
            machine,
            begun,
            done,
        } = finished;
        if let Done::Made(_, Err(reason)) | Done::Revoked(Err(reason)) = &done {
            self.outcome.refused += 1;
            self.pool.diary.tell(&format!("link {number}: {reason}"));
            self.refuse_to_hang(machine, reason, &format!("link {number}"))?;
        }
        match done {
            Done::Made(link, Ok(text)) => {
                let safety = self.safety_now(link.place);
                self.pool.diary.tell(&format!("{} is there", link.called()));
                self.links.push(Link {
                    text,
                    made: Instant::now(),
                    safety,
                    ..*link
                });
            }
            Done::Made(_, Err(_)) | Done::Revoked(Err(_)) => {}
            Done::Revoked(Ok(())) => {
                let place = self.link_mut(number).map(|link| link.place);
                let safety = place.map(|place| self.safety_now(place)).unwrap_or_default();
                self.pool.diary.tell(&format!("link {number} has ended"));
                if let Some(link) = self.link_mut(number) {
                    link.state = State::Ended(Instant::now(), safety);
                }
            }
            Done::Opened(path, opened) => {
                let link = self.links.iter().find(|link| link.number == number).cloned();
                if let Some(link) = link {
                    self.judge_link(&link, machine, begun, (&path, &opened))?;
                    let called = link.called();
                    self.pool.diary.tell(&format!("{called} shows {path} as promised"));
                }
            }
        }
        Ok(())
    }

    fn judge_link(&mut self, link: &Link, machine: usize, begun: Instant, (path, opened): (&str, &Opened)) -> Broken {
        self.outcome.checks += 1;
        let is_hurt = self.hurt.contains(&self.pool.plan.domains[machine]);
        let is_sure = !is_hurt && !self.episode_is_flood;
        let is_known = |at: Instant| at + HEARD_AFTER <= begun;
        let key = (link.place.owner, path.to_owned());
        let promise = &self.ledger[&key];
        let verdict = match (&link.state, opened) {
            (State::Shows, Opened::Ended) => Err("nobody has ended it, and it has ended".to_owned()),
            (_, Opened::Ended) => Ok(()),
            (State::Ended(at, safety), Opened::File(Seen::Bytes(_) | Seen::Absent))
                if is_sure && safety.is_due() && is_known(*at) =>
            {
                Err("it was ended, and can be opened".to_owned())
            }
            (State::Shows, Opened::File(seen)) => {
                let is_settled = self.touched.get(&key).is_none_or(|touched| is_known(*touched))
                    && !self.busy.contains(&key)
                    && is_known(link.made);
                // A machine of its maker's says what it shows.
                let is_said = self.machine_of(link.maker, 0, true).is_some();
                // The list of what it shows may be younger than what is wrong, and survive less.
                let may_be_refused = !self.hurt.is_empty() && matches!(seen, Seen::Refused(_));
                if is_sure && is_settled && is_said && !may_be_refused && link.safety.is_due() {
                    promise.judge(seen)
                } else {
                    promise.judge_lenient(seen)
                }
            }
            (State::MayHaveEnded | State::Ended(..), Opened::File(seen)) => promise.judge_lenient(seen),
        };
        verdict.map_err(|reason| {
            let called = link.called();
            format!("machine {machine}, {path} by {called}: {reason}; {promise:?}")
        })
    }

    /// Everybody sees what links show now, and that the others have ended.
    pub(super) async fn links_show(&mut self) -> Broken {
        let survived = u8::try_from(self.pool.plan.survives()).unwrap_or(u8::MAX);
        if self.links.is_empty() {
            return Ok(());
        }
        // What was changed before all was mended has been heard of.
        self.until(Instant::now() + HEARD_AFTER).await?;
        let mut links = std::mem::take(&mut self.links);
        for link in &mut links {
            let (mut has_ended, mut is_there) = (false, false);
            let looks = if link.target.contains('/') { 1 } else { LOOKS };
            for _ in 0..looks {
                let chance = self.dice.roll(1 << 48);
                let Some(path) = self.shown_by(link, chance >> 20) else {
                    break;
                };
                let Some((machine, node)) = self.node_of(self.opener_of(link, chance), chance, false) else {
                    continue;
                };
                node.gathered().await;
                let begun = Instant::now();
                let opened = open(&node, &link.text, &link.below(&path)).await;
                self.judge_link(link, machine, begun, (&path, &opened))
                    .map_err(|reason| format!("all is mended; {reason}"))?;
                has_ended |= matches!(opened, Opened::Ended);
                is_there |= !matches!(opened, Opened::File(Seen::Refused(_)));
            }
            if has_ended {
                link.state = State::Ended(Instant::now(), Safety::of(survived));
            } else if let (State::Ended(..), true) = (&link.state, is_there) {
                // That it ended was lost with too many.
                link.state = State::MayHaveEnded;
            }
            if is_there {
                link.safety = Safety::of(survived);
            }
        }
        self.links = links;
        Ok(())
    }
}

/// A file as a link shows it.
async fn open(node: &Node, text: &str, path: &Path) -> Opened {
    let mut has_ended = false;
    let work = async {
        let link = text.parse().map_err(|_| LinkError::Damaged)?;
        let opened = node.open_link(&link, None).await;
        has_ended = matches!(opened, Err(NodeError::Link(LinkError::Revoked)));
        opened?.download(path, None)?.read_to_end().await
    };
    let seen = see(work).await;
    if has_ended { Opened::Ended } else { Opened::File(seen) }
}
