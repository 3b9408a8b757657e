//! Private Postgres clusters, a virtual network and the simulator for Anabranch.
