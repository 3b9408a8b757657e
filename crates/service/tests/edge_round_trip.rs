//! Clients and service over real sockets: what one writes the others see, also across a restart.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod edge;

use std::sync::Arc;

use anabranch_service::Service;
use edge::{Edge, sees, serve, titles, within, write, write_to_store};

type Test = Result<(), Box<dyn std::error::Error>>;

#[tokio::test]
async fn what_one_client_writes_the_others_see_if_it_is_in_their_shapes() -> Test {
    let mut edge = Edge::start().await;
    let writer = edge.client("owner = 1 OR owner = 2");
    let (same, other) = (edge.client("owner = 1"), edge.client("owner = 2"));
    for client in [&writer, &same, &other] {
        assert!(within("the clients", client.settled()).await.is_settled());
    }
    write(
        &writer,
        "INSERT INTO notes VALUES (1, 1, 'one'), (2, 2, 'two')",
    );
    sees(&same, "one").await;
    sees(&other, "two").await;
    write(&writer, "UPDATE notes SET owner = 2 WHERE id = 1");
    sees(&other, "one").await;
    within("the write", same.settled()).await;
    within("the row to leave", async {
        while !titles(&same).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(within("the writer", writer.settled()).await.is_settled());
    assert_eq!(titles(&writer), ["one", "two"]);
    Ok(())
}

#[tokio::test]
async fn what_other_programs_write_to_the_store_is_told() -> Test {
    let mut edge = Edge::start().await;
    edge.serves_the_honest().await;
    write_to_store(
        edge.folder.path(),
        "INSERT INTO notes VALUES (1, 1, 'before')",
    );
    let client = edge.client("owner = 1");
    assert!(within("the client", client.settled()).await.is_settled());
    sees(&client, "before").await;
    write_to_store(
        edge.folder.path(),
        "INSERT INTO notes VALUES (2, 1, 'after')",
    );
    sees(&client, "after").await;
    assert!(within("the client", client.settled()).await.is_settled());
    Ok(())
}

#[tokio::test]
async fn a_service_over_a_store_at_rest_brings_clients_up_to_date() -> Test {
    let mut edge = Edge::start().await;
    edge.serves_the_honest().await;
    let Edge {
        folder,
        store,
        service,
        ..
    } = edge;
    let address = service.address();
    service.stop().await;
    drop(store);
    let store =
        anabranch_store::embedded::EmbeddedStore::open(&folder.path().join("store.db"), None)?;
    let store = Arc::new(store);
    let service = serve(Arc::clone(&store), address).await;
    let mut edge = Edge::of(folder, store, service);
    let client = edge.client("owner = 1");
    assert!(within("the client", client.settled()).await.is_settled());
    assert_eq!(titles(&client).len(), 1);
    Ok(())
}

#[tokio::test]
async fn clients_come_back_by_themselves_after_a_restart() -> Test {
    let mut edge = Edge::start().await;
    let (writer, reader) = (edge.client("owner = 1"), edge.client("owner = 1"));
    within("the clients", writer.settled()).await;
    within("the clients", reader.settled()).await;
    write(&writer, "INSERT INTO notes VALUES (1, 1, 'before')");
    sees(&reader, "before").await;

    let (address, store) = (edge.service.address(), Arc::clone(&edge.store));
    let service: Service = edge.service;
    within("the service to stop", service.stop()).await;
    write(&writer, "INSERT INTO notes VALUES (2, 1, 'meanwhile')");
    edge.service = serve(store, address).await;
    sees(&reader, "meanwhile").await;
    let status = within("the writer", writer.settled()).await;
    assert!(status.is_settled(), "{status:?}");
    write(&reader, "INSERT INTO notes VALUES (3, 1, 'after')");
    sees(&writer, "after").await;
    Ok(())
}
