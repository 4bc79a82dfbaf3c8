//! Checkpoints: owners make them now and then. Machines that come later take them, and have the history before them, too, once all is mended.

use super::{Broken, FOUNDED, Finished, History, OPERATION_MAX, told};
use potluck_types::SpaceName;
use tokio::time::timeout;

impl History {
    /// An owner's machine makes one, in the midst of whatever happens.
    pub(super) fn begin_with_checkpoint(&mut self, chance: u64) {
        let place = self.place_of((chance % self.persons() as u64) as usize, chance >> 8);
        let Some((machine, node)) = self.node_of(place.owner, chance >> 16, false) else {
            return;
        };
        self.outcome.operations += 1;
        self.pool
            .diary
            .tell(&format!("machine {machine}: a checkpoint of {}", place.name()));
        self.works.spawn(async move {
            let made = timeout(OPERATION_MAX, node.make_checkpoint(&place.name())).await;
            Finished::Checkpoint(machine, told(made))
        });
    }

    pub(super) fn note_checkpoint(&mut self, machine: usize, made: Result<bool, String>) -> Broken {
        match made {
            Ok(true) => self.outcome.checkpoints += 1,
            Ok(false) => {}
            Err(reason) => {
                self.outcome.refused += 1;
                self.pool.diary.tell(&format!("machine {machine}: {reason}"));
                self.refuse_to_hang(machine, &reason, "a checkpoint")?;
            }
        }
        Ok(())
    }

    /// Who has taken one has all that was before it by now.
    pub(super) async fn history_is_here(&mut self) -> Broken {
        let founded: SpaceName = FOUNDED.parse().expect("a name");
        for (i, node) in self.running() {
            for space in [SpaceName::home(), founded.clone()] {
                let Ok(info) = node.space_info(&space).await else {
                    continue;
                };
                if let Some(taken) = info.taken {
                    self.checkpoints_taken.insert((i, info.id, taken.made));
                }
                if let Some(history) = info.history {
                    return Err(format!(
                        "machine {i} has {} of {} entries before the checkpoint of {space}, and everybody is here",
                        history.here, history.of
                    ));
                }
                self.outcome.checks += 1;
            }
        }
        self.outcome.checkpoints_taken = self.checkpoints_taken.len() as u64;
        Ok(())
    }
}
