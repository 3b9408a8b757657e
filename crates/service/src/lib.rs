//! The Anabranch service: sessions, shapes, WebSocket.
