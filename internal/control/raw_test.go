package control_test

import (
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

// raw is the database, past the store.
func (f *fixture) raw(do func(db *sql.DB) error) {
	f.t.Helper()
	db, err := sql.Open("sqlite", f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	if err := do(db); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) exec(statement string) {
	f.t.Helper()
	f.raw(func(db *sql.DB) error { _, err := db.Exec(statement); return err })
}

func (f *fixture) count(table string) (n int) {
	f.t.Helper()
	f.raw(func(db *sql.DB) error { return db.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n) })
	return n
}

// dump is every row of every table.
func (f *fixture) dump() string {
	f.t.Helper()
	var out strings.Builder
	f.raw(func(db *sql.DB) error {
		tables, err := column(db, `SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name`)
		if err != nil {
			return err
		}
		for _, table := range tables {
			rows, err := db.Query(`SELECT * FROM ` + table)
			if err != nil {
				return err
			}
			names, err := rows.Columns()
			if err != nil {
				return err
			}
			for rows.Next() {
				values, dest := make([]any, len(names)), make([]any, len(names))
				for i := range values {
					dest[i] = &values[i]
				}
				if err := rows.Scan(dest...); err != nil {
					return err
				}
				fmt.Fprintln(&out, table, values)
			}
			if err := rows.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	return out.String()
}

func column(db *sql.DB, query string) (out []string, err error) {
	rows, err := db.Query(query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// bytes are all files of the database.
func (f *fixture) bytes() string {
	f.t.Helper()
	var out strings.Builder
	for _, suffix := range []string{"", "-wal", "-shm"} {
		b, err := os.ReadFile(f.path + suffix)
		if err != nil && !os.IsNotExist(err) {
			f.t.Fatal(err)
		}
		out.Write(b)
	}
	return out.String()
}

// prepare fills a new database with an organization that has many identities with tokens, and users.
func prepare(b *testing.B, path string, now time.Time, n int) {
	b.Helper()
	s, err := control.Open(b.Context(), control.Options{Path: path, Directory: access.NewDirectory()})
	if err != nil {
		b.Fatal(err)
	}
	info, err := s.CreateOrganization(b.Context(), control.System(), "many")
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	const series = `(WITH RECURSIVE c(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM c WHERE value < $1 - 1) SELECT value AS n FROM c)`
	ends := now.Add(time.Hour).UnixMilli()
	for _, statement := range []string{
		`INSERT INTO identities SELECT $2, 'token_' || n, 'x', n, '', 0, $3 FROM ` + series,
		`INSERT INTO tokens SELECT $2, 'tok_' || n, 'token_' || n, '', '', '', 3600000, 0, $3, 0 FROM ` + series,
		`INSERT INTO token_passwords SELECT $2, 'tok_' || n, 1, printf('%064d', n), $3 FROM ` + series,
		`INSERT INTO users SELECT $2, 'user' || n, '', 'x', FALSE, NULL, 0, 0 + $3 FROM ` + series,
		`UPDATE organizations SET identities = $1 WHERE number = $2 AND $3 > 0`,
	} {
		if _, err := db.Exec(statement, n, info.Number, ends); err != nil {
			b.Fatal(err)
		}
	}
}
