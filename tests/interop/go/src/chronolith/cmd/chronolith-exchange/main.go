// Command chronolith-exchange carries large values between closed databases and folders of files.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"chronolith/chunk"
	"chronolith/exchange"
)

const usage = `usage: chronolith-exchange VERB ...

  cut [-chunking C] [-origin TEXT] FILE FOLDER
                        cut a file into FOLDER/chunks, FOLDER/nodes and FOLDER/recipe;
                        C: automatic (the default), whole, fixed:N, content-defined:N
  cat FOLDER            write the value of a folder to stdout
  read DATABASE RECIPE  write the value of a recipe file to stdout, from the packs of a closed database
  verify DATABASE       verify every record of every pack of a closed database
  ask FOLDER            write a question for all chunks and nodes of a folder to stdout
  answer DATABASE QUESTION
                        write the answer of a closed database to a question file to stdout

Everything that is written has been verified; after an error, stdout has the beginning of a value.
Exit status: 0 success, 1 an error or damage, 2 wrong usage.
`

// errUsage means that the arguments are wrong.
var errUsage = errors.New("wrong usage")

// errDamage means that damage has been reported.
var errDamage = errors.New("damage")

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes a command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	err := execute(args, stdout)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errDamage):
		return 1
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "chronolith-exchange: %v\n\n%s", err, usage)
		return 2
	}
	fmt.Fprintf(stderr, "chronolith-exchange: %v\n", err)
	return 1
}

func execute(args []string, stdout io.Writer) error {
	verbs := map[string]struct {
		operands int
		run      func(operands []string, stdout io.Writer) error
	}{
		"cat": {1, cat}, "read": {2, read}, "verify": {1, verify}, "ask": {1, ask}, "answer": {2, answer},
	}
	if len(args) == 0 {
		return fmt.Errorf("%w: no verb", errUsage)
	}
	if args[0] == "cut" {
		return cut(args[1:])
	}
	verb, known := verbs[args[0]]
	if !known {
		return fmt.Errorf("%w: no verb %q", errUsage, args[0])
	}
	if len(args)-1 != verb.operands {
		return fmt.Errorf("%w: %s takes %d operands", errUsage, args[0], verb.operands)
	}
	return verb.run(args[1:], stdout)
}

func cut(args []string) error {
	flags := flag.NewFlagSet("cut", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	how := flags.String("chunking", "automatic", "")
	origin := flags.String("origin", "", "")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: cut: %v", errUsage, err)
	}
	chunking, err := chunk.ParseChunking(*how)
	if err != nil {
		return fmt.Errorf("%w: cut: %v", errUsage, err)
	}
	if flags.NArg() != 2 {
		return fmt.Errorf("%w: cut takes 2 operands", errUsage)
	}
	file, err := os.Open(flags.Arg(0))
	if err != nil {
		return err
	}
	defer file.Close()
	folder, err := exchange.CreateFolder(flags.Arg(1))
	if err != nil {
		return err
	}
	if err := folder.Cut(file, chunking, *origin); err != nil {
		return fmt.Errorf("cut %s: %w", flags.Arg(0), err)
	}
	return nil
}

func cat(operands []string, stdout io.Writer) error {
	folder := exchange.OpenFolder(operands[0])
	r, err := folder.Recipe()
	if err != nil {
		return err
	}
	return exchange.WriteValue(stdout, r, folder)
}

func read(operands []string, stdout io.Writer) error {
	store, err := exchange.OpenStore(operands[0])
	if err != nil {
		return err
	}
	defer store.Close()
	r, err := exchange.ReadRecipe(operands[1])
	if err != nil {
		return err
	}
	return exchange.WriteValue(stdout, r, store)
}

func verify(operands []string, stdout io.Writer) error {
	s, err := exchange.Verify(operands[0], func(err error) { fmt.Fprintln(stdout, err) })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%d packs (%d not sealed), %d records of %d bytes, %d damaged\n",
		s.Packs, s.Unsealed, s.Records, s.Bytes, s.Damages)
	if err == nil && s.Damages > 0 {
		err = errDamage
	}
	return err
}

func ask(operands []string, stdout io.Writer) error {
	q, err := exchange.OpenFolder(operands[0]).Question()
	if err != nil {
		return err
	}
	b, err := q.Encode()
	if err != nil {
		return fmt.Errorf("%s: %w", operands[0], err)
	}
	_, err = stdout.Write(b)
	return err
}

func answer(operands []string, stdout io.Writer) error {
	b, err := exchange.ReadFile(operands[1], exchange.MaxQuestionLen)
	if err != nil {
		return err
	}
	q, err := exchange.DecodeHaveYou(b)
	if err != nil {
		return fmt.Errorf("%s: %w", operands[1], err)
	}
	store, err := exchange.OpenStore(operands[0])
	if err != nil {
		return err
	}
	defer store.Close()
	a, err := store.Answer(q)
	if err != nil {
		return err
	}
	if b, err = a.Encode(); err == nil {
		_, err = stdout.Write(b)
	}
	return err
}
