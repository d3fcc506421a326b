package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthd/berth/cli/client"
	"github.com/berthd/berth/cli/credentials"
	"github.com/berthd/berth/cli/terminal"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type loginOptions struct {
	username, password string
	passwordStdin      bool
}

func newLogin(a *app) *cobra.Command {
	var options loginOptions
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Log in to a registry",
		Long:  "Log in to a registry, by default Docker Hub. The credentials are kept where docker keeps them, too.",
		Args:  atMost(1),
	}
	set := cmd.Flags()
	set.StringVarP(&options.username, "username", "u", "", "Username")
	set.StringVarP(&options.password, "password", "p", "", "Password or personal access token")
	set.BoolVar(&options.passwordStdin, "password-stdin", false, "Take the password from standard input")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server := ""
		if len(args) == 1 {
			server = args[0]
		}
		if cmd.Flags().Changed("password") && options.passwordStdin {
			return errors.New("--password and --password-stdin are mutually exclusive")
		}
		return a.runLogin(cmd.Context(), credentials.Host(server), options)
	}
	return cmd
}

// runLogin tries credentials at the registry and keeps them: those given, else those kept before, else those typed.
func (a *app) runLogin(ctx context.Context, host string, options loginOptions) error {
	config, err := credentials.Load()
	if err != nil {
		return err
	}
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	if err := a.readPassword(&options); err != nil {
		return err
	}
	before, err := config.Get(ctx, host)
	if err != nil {
		return err
	}
	if options.username == "" && options.password == "" && (before.GetPassword() != "" || before.GetIdentityToken() != "") {
		fmt.Fprintln(a.out, "Authenticating with existing credentials...")
		err := a.login(ctx, conn, config, host, before)
		if !client.IsUnauthenticated(err) {
			return err
		}
		fmt.Fprintf(a.err, "Login did not succeed, error: %v\n", conn.Explain(err))
	}
	if err := a.prompt(ctx, host, before.GetUsername(), &options); err != nil {
		return err
	}
	return a.login(ctx, conn, config, host, &berthv1.RegistryAuth{Username: options.username, Password: options.password})
}

// readPassword takes the password that was not typed at a prompt.
func (a *app) readPassword(options *loginOptions) error {
	if options.password != "" {
		fmt.Fprintln(a.err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if !options.passwordStdin {
		return nil
	}
	if options.username == "" {
		return errors.New("must provide --username with --password-stdin")
	}
	content, err := io.ReadAll(io.LimitReader(a.in, 1<<20))
	if err != nil {
		return fmt.Errorf("cannot read the password: %w", err)
	}
	options.password = strings.TrimRight(string(content), "\r\n")
	if options.password == "" {
		return errors.New("the password on standard input is empty")
	}
	return nil
}

// prompt asks for what is missing, at a terminal only.
func (a *app) prompt(ctx context.Context, host, usual string, options *loginOptions) error {
	if options.username != "" && options.password != "" {
		return nil
	}
	if !terminal.Is(a.in) {
		return errors.New("cannot ask for the username and password: standard input is no terminal; use --username and --password-stdin")
	}
	if options.username == "" {
		fmt.Fprintf(a.out, "Username for %s", host)
		if usual != "" {
			fmt.Fprintf(a.out, " (%s)", usual)
		}
		fmt.Fprint(a.out, ": ")
		line, err := terminal.Interruptible(ctx, func() (string, error) { return bufio.NewReader(a.in).ReadString('\n') })
		if err != nil {
			return fmt.Errorf("cannot read the username: %w", err)
		}
		if options.username = strings.TrimSpace(line); options.username == "" {
			options.username = usual
		}
		if options.username == "" {
			return errors.New("a username is required")
		}
	}
	if options.password == "" {
		fmt.Fprint(a.out, "Password: ")
		password, err := terminal.ReadPassword(ctx, a.in)
		fmt.Fprintln(a.out)
		if err != nil {
			return fmt.Errorf("cannot read the password: %w", err)
		}
		if options.password = password; password == "" {
			return errors.New("a password is required")
		}
	}
	return nil
}

// login asks the registry, and keeps the credentials if it accepts them.
func (a *app) login(ctx context.Context, conn *client.Client, config *credentials.Config, host string, auth *berthv1.RegistryAuth) error {
	answer, err := conn.System.CheckAuth(ctx, &berthv1.CheckAuthRequest{Registry: host, Auth: auth})
	if err != nil {
		return err
	}
	if token := answer.GetIdentityToken(); token != "" {
		auth.Password, auth.IdentityToken = "", token
	}
	inClear, err := config.Put(ctx, host, auth)
	if err != nil {
		return err
	}
	if inClear != "" {
		fmt.Fprintf(a.err, "WARNING! Your password will be stored unencrypted in %s.\nConfigure a credential helper to remove this warning.\n", inClear)
	}
	fmt.Fprintln(a.out, "Login Succeeded")
	return nil
}

func newLogout(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Long:  "Forget the credentials for a registry, by default Docker Hub.",
		Args:  atMost(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host := credentials.Host(strings.Join(args, ""))
		config, err := credentials.Load()
		if err != nil {
			return err
		}
		there, err := config.Erase(cmd.Context(), host)
		if err != nil {
			return err
		}
		if !there {
			fmt.Fprintf(a.out, "Not logged in to %s\n", host)
			return nil
		}
		fmt.Fprintf(a.out, "Removing login credentials for %s\n", host)
		return nil
	}
	return cmd
}

// authFor returns the credentials for an image's registry. What keeps them from being read is said, and the registry
// asked without any: most images need none.
func (a *app) authFor(ctx context.Context, reference string) *berthv1.RegistryAuth {
	auth, err := credentials.ForImage(ctx, reference)
	if err != nil {
		fmt.Fprintf(a.err, "warning: going on without credentials: %v\n", err)
	}
	return auth
}
