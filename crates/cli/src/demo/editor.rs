//! One editor: a replica in a file of its own, online or offline.

use std::path::{Path, PathBuf};

use anabranch_client::{Client, ClientOptions};
use anabranch_protocol::Seq;
use anabranch_replica::{OpenOptions, Replica};

use super::plan::PlannedShape;
use crate::failure::Failure;

/// An editor.
pub(super) struct Editor {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    link: Link,
}

enum Link {
    Offline(Box<Replica>),
    Online(Client),
    /// Between the two; stays so only after a failure.
    Lost,
}

impl Editor {
    /// Makes a replica in `folder`.
    pub(super) fn make(name: &'static str, folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(format!("{}.db", name.to_lowercase()));
        if path.exists() {
            return Err(Failure::new(format!("{} is there already", path.display()))
                .advising("name a folder without replicas, or remove them"));
        }
        let replica = Replica::open(&path, OpenOptions::system())?;
        Ok(Self {
            name,
            path,
            link: Link::Offline(Box::new(replica)),
        })
    }

    pub(super) fn subscribe(&mut self, shapes: &[PlannedShape]) -> Result<(), Failure> {
        self.with(|replica| {
            for shape in shapes {
                replica.subscribe(&shape.request())?;
            }
            Ok(())
        })
    }

    /// Goes online.
    pub(super) async fn connect(&mut self, url: &str) -> Result<(), Failure> {
        self.disconnect().await?;
        if let Link::Offline(replica) = std::mem::replace(&mut self.link, Link::Lost) {
            let options = ClientOptions::new(url, "");
            self.link = Link::Online(Client::start(*replica, options));
        }
        Ok(())
    }

    /// Goes offline.
    pub(super) async fn disconnect(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.link, Link::Lost) {
            Link::Online(client) => {
                let replica = match client.stop().await {
                    Some(replica) => replica,
                    None => Replica::open(&self.path, OpenOptions::system())?,
                };
                self.link = Link::Offline(Box::new(replica));
            }
            offline => self.link = offline,
        }
        Ok(())
    }

    /// Writes one transaction.
    pub(super) fn write(&mut self, sql: &str) -> Result<(), Failure> {
        let name = self.name;
        self.with(|replica| {
            let done = replica.transaction(|tx| tx.execute_batch(sql));
            done.map(|_| ())
                .map_err(|error| Failure::of(format!("{name} cannot write: {error}")))
        })
    }

    /// How many transactions wait for the service.
    pub(super) fn pending(&mut self) -> Result<usize, Failure> {
        self.with(|replica| Ok(replica.pending(Seq(0), usize::MAX)?.len()))
    }

    /// Why it is not in step with the service yet, if it is not.
    pub(super) fn unsettled(&self) -> Option<String> {
        let name = self.name;
        let Link::Online(client) = &self.link else {
            return Some(format!("{name} is offline"));
        };
        let status = client.status().borrow().clone();
        let refused = status
            .subscriptions
            .iter()
            .find_map(|held| held.refused.clone());
        match refused {
            Some(reason) => Some(format!("{name}'s subscription was refused: {reason}")),
            None if status.is_settled() => None,
            None => Some(format!(
                "{name} is not in step: {:?}, {} pending",
                status.connection, status.pending
            )),
        }
    }

    /// Does something with the replica, wherever it is held.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Replica) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match &mut self.link {
            Link::Offline(replica) => work(replica),
            Link::Online(client) => work(&mut client.replica()),
            Link::Lost => Err(Failure::new(format!("{}'s replica was lost", self.name))),
        }
    }
}
