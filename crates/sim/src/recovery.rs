//! How soon a large pool is whole again after machines are lost.
//!
//! The planners are those that ship, one for each node, with the placement that ships. What they decide is carried out by a model of transfers: each node sends and receives at
//! one rate, one shard after the other in each direction, and receives while the other sends. Stripes that lose nothing are left out: they ask for nothing.

use potluck_placement::{
    Domain, Mend, NodeFacts, Outcome, Planner, PlannerOptions, Presence, Reported, View, geometry, lot, rank,
};
use potluck_types::{Geometry, Hash, NodeId, ShardId, StripeId, Timestamp};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    time::Duration,
};

/// What is lost, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Machines of the pool.
    pub nodes: usize,
    /// Its stripes.
    pub stripes: u64,
    /// Machines that are lost at once.
    pub lost: usize,
    /// Whether these are one zone.
    pub together: bool,
    /// How many losses the data survives.
    pub survives: u8,
    /// Bytes of a shard.
    pub shard_len: u32,
    /// Bytes a second that each machine sends and receives.
    pub rate: u64,
}

/// How the pool got over it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Recovered {
    /// How stripes are coded.
    pub geometry: Geometry,
    /// Stripes that lost shards.
    pub touched: u64,
    /// Those of them that were lost: with more shards than they survive the loss of.
    pub gone: u64,
    /// Shards that were made anew.
    pub made: u64,
    /// Shards that were read for it.
    pub read: u64,
    /// From the loss until nothing was endangered any more.
    pub took: Duration,
    /// The same when all machines do nothing but send and receive at full rate from the end of the grace period on: *k* shards for each stripe, and one for each shard
    /// made anew.
    pub least: Duration,
    /// The grace period in both.
    pub grace: Duration,
}

fn node(i: usize) -> NodeId {
    NodeId::from_bytes(*Hash::of(format!("node {i}").as_bytes()).as_bytes())
}

fn stripe(i: u64) -> StripeId {
    StripeId::from_bytes(*Hash::of(format!("stripe {i}").as_bytes()).as_bytes())
}

/// A repair under way.
struct Repair {
    steward: NodeId,
    mend: Mend,
    /// Shards that are still to come; then those that are still to be put somewhere.
    to_read: usize,
    to_write: usize,
}

/// What happens at a time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The last byte of a shard is on its way to this machine, for a repair.
    Sent(NodeId, u64),
    /// It is there.
    Received(u64),
}

/// See the module.
struct Pool {
    loss: Loss,
    view: View,
    planners: BTreeMap<NodeId, Planner>,
    /// Until when what each machine was asked for takes to send, and to receive.
    sending: HashMap<NodeId, Duration>,
    receiving: HashMap<NodeId, Duration>,
    repairs: HashMap<u64, Repair>,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    begun: u64,
    made: u64,
    read: u64,
}

impl Pool {
    fn timestamp(at: Duration) -> Timestamp {
        Timestamp::from_millis(u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
    }

    /// How long a line is busy with one shard.
    fn takes(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.loss.shard_len) / self.loss.rate as f64)
    }

    /// A machine sends a shard after all that it was asked for before.
    fn send(&mut self, from: NodeId, to: NodeId, repair: u64, now: Duration) {
        if from == to {
            self.events.push(Reverse((now, Event::Received(repair))));
            return;
        }
        let takes = self.takes();
        let free_at = self.sending.entry(from).or_default();
        *free_at = now.max(*free_at) + takes;
        self.events.push(Reverse((*free_at, Event::Sent(to, repair))));
    }

    /// What a steward may begin now, begins.
    fn begin(&mut self, steward: NodeId, now: Duration) {
        while let Some(mend) = self
            .planners
            .get_mut(&steward)
            .and_then(|planner| planner.next(Self::timestamp(now), &self.view))
        {
            // Those who have least to send are asked, one for each shard.
            let mut sources = mend.sources.clone();
            sources.sort_by_key(|(from, _)| self.sending.get(from).copied());
            let mut seen = BTreeSet::new();
            sources.retain(|(_, index)| seen.insert(*index));
            sources.truncate(mend.geometry.k().into());
            self.begun += 1;
            self.read += sources.len() as u64;
            let repair = Repair {
                steward,
                to_read: sources.len(),
                to_write: mend.place.len(),
                mend,
            };
            self.repairs.insert(self.begun, repair);
            for (from, _) in sources {
                self.send(from, steward, self.begun, now);
            }
        }
    }

    fn on_received(&mut self, number: u64, now: Duration) {
        let repair = self.repairs.get_mut(&number).expect("it is under way");
        let steward = repair.steward;
        if repair.to_read > 0 {
            repair.to_read -= 1;
            if repair.to_read == 0 {
                let targets: Vec<_> = repair.mend.place.iter().map(|(_, to)| *to).collect();
                targets.into_iter().for_each(|to| self.send(steward, to, number, now));
            }
            return;
        }
        repair.to_write -= 1;
        if repair.to_write > 0 {
            return;
        }
        let mend = self.repairs.remove(&number).expect("it is under way").mend;
        self.made += mend.place.len() as u64;
        let planner = self.planners.get_mut(&steward).expect("it has begun this");
        for (index, to) in &mend.place {
            let reported = Reported {
                shard: ShardId {
                    stripe: mend.stripe,
                    index: *index,
                },
                geometry: mend.geometry,
                shard_len: mend.shard_len,
                space: None,
            };
            planner.report(Self::timestamp(now), *to, reported, true);
        }
        planner.finished(mend.stripe, Outcome::Done, Self::timestamp(now));
        self.begin(steward, now);
    }

    /// All that can be done is. Gives when the last of it ended.
    fn run(&mut self, from: Duration) -> Duration {
        let mut now = from;
        let stewards: Vec<_> = self.planners.keys().copied().collect();
        for steward in stewards {
            self.begin(steward, now);
        }
        let takes = self.takes();
        while let Some(Reverse((at, event))) = self.events.pop() {
            now = at;
            match event {
                Event::Sent(to, repair) => {
                    let free_at = self.receiving.entry(to).or_default();
                    *free_at = now.max(*free_at + takes);
                    self.events.push(Reverse((*free_at, Event::Received(repair))));
                }
                Event::Received(repair) => self.on_received(repair, now),
            }
        }
        now
    }
}

/// Loses machines of a large pool, and lets it recover.
///
/// # Errors
///
/// When it does not, and nothing is left to do.
pub fn recover(loss: Loss) -> Result<Recovered, String> {
    let domains = if loss.together {
        loss.nodes - loss.lost + 1
    } else {
        loss.nodes
    };
    let geometry = geometry(domains, loss.survives).map_err(|error| error.to_string())?;
    let options = PlannerOptions::default();
    let facts = |i: usize| {
        let domain = if loss.together && i < loss.lost {
            Domain::Zone("lost".parse().expect("letters"))
        } else {
            Domain::Node(node(i))
        };
        (node(i), NodeFacts::new(domain, 1 << 40))
    };
    let whole = View {
        nodes: (0..loss.nodes).map(facts).collect(),
        ..View::default()
    };
    let lost: BTreeSet<NodeId> = (0..loss.lost).map(node).collect();
    let mut view = whole.clone();
    for (_, facts) in view.nodes.iter_mut().filter(|(node, _)| lost.contains(*node)) {
        facts.presence = Presence::Away {
            since: Timestamp::default(),
        };
    }
    let mut pool = Pool {
        loss,
        view,
        planners: BTreeMap::new(),
        sending: HashMap::new(),
        receiving: HashMap::new(),
        repairs: HashMap::new(),
        events: BinaryHeap::new(),
        begun: 0,
        made: 0,
        read: 0,
    };
    let (mut touched, mut gone, mut missing) = (0u64, 0u64, 0u64);
    for stripe in (0..loss.stripes)
        .map(stripe)
        .filter(|stripe| may_hold(*stripe, &lost, loss.nodes, geometry))
    {
        let holders: Vec<_> = rank(stripe, &whole).into_iter().take(geometry.n().into()).collect();
        let lacks = holders.iter().filter(|node| lost.contains(*node)).count();
        if lacks == 0 {
            continue;
        }
        touched += 1;
        if lacks > geometry.m().into() {
            gone += 1;
            continue;
        }
        missing += lacks as u64;
        let steward = holders
            .iter()
            .find(|node| !lost.contains(*node))
            .expect("most are here");
        let planner = pool.planners.entry(*steward).or_insert_with(|| Planner::new(options));
        for (index, holder) in (0..).zip(&holders) {
            let reported = Reported {
                shard: ShardId { stripe, index },
                geometry,
                shard_len: loss.shard_len,
                space: None,
            };
            planner.report(Timestamp::default(), *holder, reported, false);
        }
    }
    let took = pool.run(options.grace);
    let now = Pool::timestamp(took);
    let view = pool.view.clone();
    let endangered: u64 = pool
        .planners
        .values_mut()
        .map(|planner| planner.summary(now, &view, &view).endangered)
        .sum();
    if endangered > 0 {
        return Err(format!("{endangered} stripes are still endangered"));
    }
    let shards = (touched - gone) * u64::from(geometry.k()) + missing;
    let seconds = shards as f64 * f64::from(loss.shard_len) / loss.rate as f64 / (loss.nodes - loss.lost) as f64;
    Ok(Recovered {
        geometry,
        touched,
        gone,
        made: pool.made,
        read: pool.read,
        took,
        least: options.grace + Duration::from_secs_f64(seconds),
        grace: options.grace,
    })
}

/// Whether one of these machines may hold a shard of the stripe: it is among the best of all by its own lot, with much room to spare. Ranking all machines for each stripe
/// takes a thousand times as long.
fn may_hold(stripe: StripeId, nodes: &BTreeSet<NodeId>, of: usize, geometry: Geometry) -> bool {
    let n = f64::from(geometry.n());
    let share = (n + 8.0 * n.sqrt()) / of as f64;
    let least = (1.0 - share) * u64::MAX as f64;
    nodes.iter().any(|node| lot(stripe, *node) as f64 > least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_machine_held_is_made_anew_by_all_in_little_more_than_the_least_time() {
        let recovered = recover(Loss {
            nodes: 60,
            stripes: 3000,
            lost: 1,
            together: false,
            survives: 2,
            shard_len: 200_000,
            rate: 1_000_000,
        })
        .expect("it recovers");
        // One of sixty machines holds a shard of one stripe in three.
        assert!((900..1100).contains(&recovered.touched), "{recovered:?}");
        assert_eq!((recovered.gone, recovered.made), (0, recovered.touched));
        assert_eq!(recovered.read, recovered.touched * 18);
        let (took, least) = (recovered.took - recovered.grace, recovered.least - recovered.grace);
        assert!(took >= least && took < 3 * least, "{recovered:?}");
    }
}
