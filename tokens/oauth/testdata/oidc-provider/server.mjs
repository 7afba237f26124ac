// A certified authorization server (panva/oidc-provider) with opaque tokens that
// knows every client authentication. Nothing is on disk: a restart voids every
// token.
//
//   SETUP='{"port": 0, "clients": [...]}' node --input-type=module < server.mjs
//
// in a folder whose node_modules has oidc-provider. With key, cert and ca (PEM) it
// serves HTTPS. It prints its issuer. What would need a browser or an operator
// otherwise:
//
//   POST /first-refresh-token?client_id=X   gives a user's refresh token
//   PUT /clients                            replaces a client by the one in the body
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { json } from 'node:stream/consumers';
import { X509Certificate } from 'node:crypto';
import { Provider, errors } from 'oidc-provider';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const setup = JSON.parse(process.env.SETUP);
const resource = 'https://orders.example/api';

const server = setup.key
  ? createSecureServer({ key: setup.key, cert: setup.cert, ca: setup.ca, requestCert: true, rejectUnauthorized: false })
  : createServer();
server.listen(setup.port, '127.0.0.1', async () => {
  const issuer = `${setup.key ? 'https' : 'http'}://127.0.0.1:${server.address().port}`;
  const provider = newProvider(issuer);
  for (const client of setup.clients) {
    await provider.Client.adapter.upsert(client.client_id, client);
  }
  server.on('request', provider.callback());
  console.log(issuer);
});

function newProvider(issuer) {
  const provider = new Provider(issuer, {
    scopes: ['openid', 'offline_access', 'orders.read', 'orders.write', 'orders.delete'],
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt',
      'tls_client_auth', 'self_signed_tls_client_auth',
    ],
    ttl: { ClientCredentials: 600, AccessToken: 600, RefreshToken: 3600, Grant: 3600 },
    rotateRefreshToken: true,
    findAccount: async (ctx, accountId) => ({ accountId, claims: async () => ({ sub: accountId }) }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: async () => true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: async () => ({ scope: 'orders.read orders.write orders.delete', audience: resource, accessTokenFormat: 'opaque' }),
        useGrantedResource: async () => true,
      },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate: (ctx) => {
          const { raw } = ctx.socket.getPeerCertificate();
          return raw && new X509Certificate(raw);
        },
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === 'tls_client_auth_san_dns' && ctx.socket.getPeerCertificate().subjectaltname === `DNS:${expected}`,
      },
    },
  });
  if (setup.subjects) {
    provider.registerGrantType('urn:ietf:params:oauth:grant-type:token-exchange', exchange(setup.subjects), [
      'subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'scope',
    ]);
  }
  provider.use(async (ctx, next) => {
    switch (`${ctx.method} ${ctx.path}`) {
      case 'POST /first-refresh-token':
        ctx.body = await firstRefreshToken(provider, ctx.query.client_id);
        break;
      case 'PUT /clients': {
        const client = await json(ctx.req);
        await provider.Client.adapter.upsert(client.client_id, client);
        ctx.status = 204;
        break;
      }
      default:
        await next();
    }
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  return provider;
}

async function firstRefreshToken(provider, clientId) {
  const client = await provider.Client.find(clientId);
  const grant = new provider.Grant({ accountId: 'alice', clientId });
  grant.addOIDCScope('openid offline_access');
  const grantId = await grant.save();
  const token = new provider.RefreshToken({
    accountId: 'alice', client, grantId, gty: 'authorization_code', scope: 'openid offline_access', rotations: 0, iiat: Math.floor(Date.now() / 1000),
  });
  return token.save();
}

// exchange returns what handles RFC 8693: the subject tokens are JWTs of another
// issuer, and those of some users are not taken.
function exchange({ issuer, jwks, refused = [] }) {
  const keys = createRemoteJWKSet(new URL(jwks));
  return async (ctx) => {
    const { client, params, provider } = ctx.oidc;
    const { payload } = await jwtVerify(params.subject_token, keys, { issuer }).catch(() => {
      throw new errors.InvalidRequest('the subject token is not good');
    });
    if (refused.includes(payload.sub)) {
      throw new errors.InvalidGrant('nothing is given on behalf of this user');
    }
    const grantId = await new provider.Grant({ accountId: payload.sub, clientId: client.clientId }).save();
    const token = new provider.AccessToken({ accountId: payload.sub, client, grantId, gty: 'token_exchange' });
    ctx.body = {
      access_token: await token.save(),
      issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      token_type: 'Bearer',
      expires_in: token.expiration,
    };
  };
}
