//go:build !race

package script

// memoryCap is the most resident memory, in bytes, that the server may have while one abuse is done to it by 4 rounds of
// 50 connections at once, each of which may make it buffer 64 KiB before log-in and 1 MiB after it.
const memoryCap = 160 << 20

// floodCap is the most resident memory, in bytes, of the server under any attack of TestFloods: the 512 MiB that an organization's
// subscriptions may take, once more as garbage, and the rest.
const floodCap = 1200 << 20
