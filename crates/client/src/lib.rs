//! Drives an Anabranch replica over the network.
