//! A replica of the table `notes`, as `docs/quickstart.md` serves it: opened, subscribed, written to,
//! synced, read. Run it twice, with two files.

use std::error::Error;

use anabranch::{Client, ClientOptions, ConnectionState, OpenOptions, Replica, ShapeRequest};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: quickstart ws://127.0.0.1:4600/v1/sync FILE".into());
    };
    let mut replica = Replica::open(file, OpenOptions::system())?;
    replica.subscribe(&ShapeRequest::Spelled {
        table: "notes".into(),
        filter: None,
        columns: vec![],
        parameters: vec![],
    })?;

    // From here on the replica is kept in step in the background. The first time, the tables come
    // with the rows.
    let token = String::new();
    let client = Client::start(replica, ClientOptions::new(url, token));
    if let ConnectionState::Refused { reason } = client.settled().await.connection {
        return Err(reason.into());
    }

    let sql = "INSERT INTO notes (id, owner, body) VALUES (lower(hex(randomblob(8))), 'ann', ?1)";
    let committed = client
        .replica()
        .transaction(|tx| tx.execute(sql, ["written by the example"]))?;
    println!("in the file, as transaction {:?}", committed.seq);

    let status = client.settled().await;
    println!("in the store; {} refused", status.rejected);

    let replica = client.replica();
    let mut query = replica
        .connection()
        .prepare("SELECT id, owner, body FROM notes ORDER BY id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, owner, body): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        println!("{id}  {owner}  {body}");
    }
    Ok(())
}
