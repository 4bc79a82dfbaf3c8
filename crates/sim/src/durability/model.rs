//! The chain of states that one stripe goes through until it is lost.
//!
//! A state is how many machines of the pool are gone and not replaced, and how many of the stripe's shards were lost with machines and are not made anew yet. From there
//! a machine is lost, with a shard of the stripe or without; what is missing is made anew, on as many machines as are free; or a machine is replaced. All times between
//! are exponential. Two numbers are needed: a pool whose free machine is used up repairs nothing more until another one comes.

use potluck_types::Geometry;

/// Hours of a year.
const YEAR: f64 = 24.0 * 365.25;
/// More machines than that are not gone at once.
const GONE_MAX: usize = 24;

/// A pool, and one stripe in it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pool {
    /// Failure domains of the pool: machines, or zones.
    pub domains: usize,
    /// How the stripe is coded.
    pub geometry: Geometry,
    /// How often one is lost for good, per hour.
    pub loss_rate: f64,
    /// How long it takes until its shards are made anew, in hours; the grace period is a part of it.
    pub repair: f64,
    /// The same when not one more can be lost, and nobody waits.
    pub urgent_repair: f64,
    /// How long it takes until another comes in its place, in hours.
    pub replacement: f64,
    /// The chance that a shard which is there is damaged, and nobody knows yet.
    pub latent: f64,
}

/// The rates out of one state: to other states, and to the loss; and what an hour there counts.
#[derive(Clone)]
struct Row {
    to: Vec<f64>,
    lost: f64,
    hours: f64,
}

impl Row {
    fn total(&self) -> f64 {
        self.to.iter().sum::<f64>() + self.lost
    }
}

impl Pool {
    /// The mean time until the stripe is lost, in hours, from a whole pool on.
    pub fn mean_time_to_loss(&self) -> f64 {
        let mut rows = self.rows();
        // States are taken out one by one, the last first: whoever came to one goes on to where it leads, and has spent its time. Nothing is subtracted, so that
        // nothing is cancelled out however small the chance of a loss is (Grassmann, Taksar, Heyman 1985).
        while rows.len() > 1 {
            let gone = rows.pop().expect("more than one");
            let at = rows.len();
            let total = gone.total();
            for (i, row) in rows.iter_mut().enumerate() {
                let share = row.to.pop().expect("a rate for each state") / total;
                if share > 0.0 {
                    row.to
                        .iter_mut()
                        .zip(&gone.to)
                        .for_each(|(rate, on)| *rate += share * on);
                    row.to[i] = 0.0;
                    row.lost += share * gone.lost;
                    row.hours += share * gone.hours;
                }
            }
            debug_assert!(rows.iter().all(|row| row.to.len() == at), "one rate for each state");
        }
        rows[0].hours / rows[0].lost
    }

    /// The chance that the stripe is lost within a year.
    pub fn yearly_loss(&self) -> f64 {
        -(-YEAR / self.mean_time_to_loss()).exp_m1()
    }

    fn rows(&self) -> Vec<Row> {
        let (k, m) = (usize::from(self.geometry.k()), usize::from(self.geometry.m()));
        let gone_max = self.domains.min(GONE_MAX);
        let states: Vec<(usize, usize)> = (0..=gone_max)
            .flat_map(|gone| (0..=m).map(move |missing| (gone, missing)))
            // Machines that hold its shards are there.
            .filter(|(gone, missing)| k + m - missing <= self.domains - gone)
            .collect();
        let at = |state: (usize, usize)| states.iter().position(|other| *other == state);
        let row = |&(gone, missing): &(usize, usize)| {
            let mut row = Row {
                to: vec![0.0; states.len()],
                lost: 0.0,
                hours: 1.0,
            };
            let holders = k + m - missing;
            let free = self.domains - gone - holders;
            // A pool that loses still more has lost all that it can lose.
            let mut go = |to: (usize, usize), rate: f64| match at(to) {
                Some(to) => row.to[to] += rate,
                None => row.lost += rate,
            };
            if free > 0 {
                go((gone + 1, missing), self.loss_rate * free as f64);
            }
            let by_holder = self.loss_rate * holders as f64;
            if missing == m {
                go((usize::MAX, 0), by_holder);
            } else {
                // Who arrives where every shard is needed finds out which of them were damaged.
                let is_last = missing + 1 == m;
                let found = if is_last {
                    -(k as f64 * (-self.latent).ln_1p()).exp_m1()
                } else {
                    0.0
                };
                go((usize::MAX, 0), by_holder * found);
                go((gone + 1, missing + 1), by_holder * (1.0 - found));
            }
            let made = missing.min(free);
            if made > 0 {
                let hours = if missing == m { self.urgent_repair } else { self.repair };
                go((gone, missing - made), 1.0 / hours);
            }
            if gone > 0 {
                go((gone - 1, missing), gone as f64 / self.replacement);
            }
            row
        };
        states.iter().map(row).collect()
    }
}

/// How many nines of a hundred percent a chance of loss leaves.
pub fn nines(loss: f64) -> f64 {
    -loss.log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(domains: usize, k: u8, m: u8) -> Pool {
        Pool {
            domains,
            geometry: Geometry::new(k, m).expect("a geometry"),
            loss_rate: 1e-5,
            repair: 10.0,
            urgent_repair: 10.0,
            replacement: 1e-9,
            latent: 0.0,
        }
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} is not about {expected}");
    }

    #[test]
    fn without_parity_any_holder_takes_the_stripe_along() {
        assert_near(pool(4, 1, 0).mean_time_to_loss(), 1e5);
        assert_near(pool(6, 4, 0).mean_time_to_loss(), 1e5 / 4.0);
    }

    #[test]
    fn textbook_pairs_and_triples() {
        // A mirrored pair that is always repaired: (3λ + μ) / 2λ² (Patterson, Gibson, Katz 1988).
        let (rate, repair) = (1e-5, 10.0);
        assert_near(
            pool(1000, 1, 1).mean_time_to_loss(),
            (3.0 * rate + 1.0 / repair) / (2.0 * rate * rate),
        );
        // Three copies, all missing ones made anew at once: μ² / 6λ³ for rare losses.
        assert_near(
            pool(1000, 1, 2).mean_time_to_loss(),
            1.0 / (6.0 * rate * rate * rate * repair * repair),
        );
    }

    #[test]
    fn who_cannot_repair_waits_for_a_machine() {
        // Two machines, no free one: the repair waits for the replacement, then takes its own time.
        let waits = Pool {
            replacement: 500.0,
            ..pool(2, 1, 1)
        };
        let at_once = Pool {
            repair: 510.0,
            urgent_repair: 510.0,
            ..pool(1000, 1, 1)
        };
        let (found, expected) = (waits.mean_time_to_loss(), at_once.mean_time_to_loss());
        assert!((found / expected - 1.0).abs() < 0.05, "{found} is not about {expected}");
    }

    #[test]
    fn all_machines_without_replacement_die_in_turn() {
        // Three copies on three machines that nobody replaces: 1/3λ + 1/2λ + 1/λ.
        let pool = Pool {
            replacement: f64::INFINITY,
            ..pool(3, 1, 2)
        };
        assert_near(pool.mean_time_to_loss(), 1e5 * (1.0 + 0.5 + 1.0 / 3.0));
    }

    #[test]
    fn hidden_damage_is_found_when_it_matters() {
        let with_damage = Pool {
            latent: 1e-3,
            ..pool(1000, 4, 1)
        };
        // One loss of five holders, and then one of four shards is damaged.
        let by_damage = 5e-5 * 4e-3;
        let by_losses = 1.0 / pool(1000, 4, 1).mean_time_to_loss();
        let found = 1.0 / with_damage.mean_time_to_loss();
        assert!((found / (by_damage + by_losses) - 1.0).abs() < 0.01, "{found}");
    }
}
